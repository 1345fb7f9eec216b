//! Writes segment files as `docs/on-disk-format.md` describes them, by its own code, and lies where it likes.

use super::values::{ballot, configuration, entry, group, log, node, perhaps, sequence, several, slot, start};
use arbitrary::{Result, Unstructured};
use consensus::{Entry, NodeId, Record, Sequence};

/// Whose log it is.
pub(super) const NODE: NodeId = NodeId(9);

/// The smallest that a segment may be.
pub(super) const SEGMENT_BYTES: usize = 64 << 10;

const BLOCK_BYTES: usize = 4096;
const IDENTITY_BYTES: usize = 128;

/// Forged segments.
pub(super) struct Forgery {
    pub(super) segments: Vec<Vec<u8>>,
    /// What they say, if nothing in them is a lie.
    pub(super) honest: Option<Vec<(Sequence, Record)>>,
}

/// A record before it has a place.
struct Frame {
    kind: u8,
    position: u64,
    group: u128,
    log: u128,
    slot: u64,
    ballot: consensus::Ballot,
    entries: u32,
    value: Vec<u8>,
    value_checksum: u32,
}

impl Forgery {
    pub(super) fn new(choices: &mut Unstructured<'_>) -> Result<Forgery> {
        if choices.arbitrary()? {
            honest(choices)
        } else {
            lies(choices)
        }
    }
}

fn honest(choices: &mut Unstructured<'_>) -> Result<Forgery> {
    let mut records = Vec::new();
    for sequence in (1..).take(choices.int_in_range(1..=12)?) {
        records.push((Sequence(sequence), record(choices)?));
    }
    let frames: Vec<Frame> = records.iter().map(|(sequence, record)| frame(*sequence, record)).collect();
    let mut segment = vec![0; SEGMENT_BYTES];
    let header = Header { sequence: 1, first_batch: 1, ..Header::default() };
    let mut place = BLOCK_BYTES;
    for (number, frame) in (0..).zip(&frames) {
        // One batch each.
        let identity = identity(frame, u64::from(number) + 1, number, 0, place);
        put_record(&mut segment, &header, frame, (identity, identity), number, place);
        place += (IDENTITY_BYTES + frame.value.len()).next_multiple_of(8);
    }
    put_header(&mut segment, &header);
    Ok(Forgery { segments: vec![segment], honest: Some(records) })
}

fn record(choices: &mut Unstructured<'_>) -> Result<Record> {
    let (group, log) = (group(choices)?, log(choices)?);
    Ok(match choices.int_in_range(0..=10)? {
        0 => Record::Configured { configuration: configuration(choices)?.into() },
        1 => Record::Promised { group, log, ballot: ballot(choices)? },
        2 => Record::Chosen { group, log, up_to: slot(choices)? },
        3 => Record::Installed { group, log, slot: slot(choices)? },
        4 => Record::Trimmed { group, log, up_to: slot(choices)? },
        5 => Record::PeerSeen { node: node(choices)?, start: start(choices)?, position: sequence(choices)? },
        6 => Record::VotingBarred { group, start: start(choices)? },
        7 => Record::Forgotten { group },
        8 => {
            let (ballot, entries) = (ballot(choices)?, entries(choices)?);
            let entries: Vec<_> = entries.into_iter().map(|entry| (ballot, entry)).collect();
            Record::Learnt { group, log, first: first(choices)?, entries: entries.into() }
        }
        _ => Record::Accepted {
            group,
            log,
            ballot: ballot(choices)?,
            first: first(choices)?,
            entries: entries(choices)?.into(),
        },
    })
}

/// A slot behind which there is room.
fn first(choices: &mut Unstructured<'_>) -> Result<consensus::Slot> {
    Ok(slot(choices)?.clamp(consensus::Slot(1), consensus::Slot(1 << 61)))
}

fn entries(choices: &mut Unstructured<'_>) -> Result<Vec<Entry>> {
    let mut entries = vec![entry(choices)?];
    entries.extend(several(choices, 3, entry)?);
    Ok(entries)
}

fn frame(position: Sequence, record: &Record) -> Frame {
    let zero = consensus::Ballot::ZERO;
    let floor = consensus::Ballot::floor;
    let bare = |kind, group: u128, log: u128, slot: u64, ballot| Frame {
        kind,
        position: position.0,
        group,
        log,
        slot,
        ballot,
        entries: 0,
        value: Vec::new(),
        value_checksum: 0,
    };
    match record {
        Record::Configured { configuration } => {
            let value = Entry::configuration(configuration).body().to_vec();
            let value_checksum = crc32c::crc32c(&value);
            let epoch = configuration.epoch;
            Frame { value, value_checksum, ..bare(1, configuration.group.0, 0, epoch.0, floor(epoch)) }
        }
        Record::Promised { group, log, ballot } => bare(2, group.0, log.0, 0, *ballot),
        Record::Accepted { group, log, ballot, first, entries } => {
            with_entries(bare(3, group.0, log.0, first.0, *ballot), entries.iter())
        }
        Record::Learnt { group, log, first, entries } => {
            with_entries(bare(4, group.0, log.0, first.0, entries[0].0), entries.iter().map(|(_, entry)| entry))
        }
        Record::Chosen { group, log, up_to } => bare(5, group.0, log.0, up_to.0, zero),
        Record::Installed { group, log, slot } => bare(6, group.0, log.0, slot.0, zero),
        Record::Trimmed { group, log, up_to } => bare(7, group.0, log.0, up_to.0, zero),
        Record::PeerSeen { node, start, position } => {
            bare(8, 0, 0, position.0, consensus::Ballot { node: *node, start: *start, ..zero })
        }
        Record::VotingBarred { group, start } => bare(9, group.0, 0, 0, consensus::Ballot { start: *start, ..zero }),
        Record::Forgotten { group } => bare(10, group.0, 0, 0, zero),
    }
}

/// A directory of length and checksum per entry, then the entries.
fn with_entries<'a>(frame: Frame, entries: impl Iterator<Item = &'a Entry>) -> Frame {
    let (mut directory, mut contents, mut count) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        directory.extend((entry.len() as u32).to_le_bytes());
        directory.extend(crc32c::crc32c(entry.bytes()).to_le_bytes());
        contents.extend_from_slice(entry.bytes());
        count += 1;
    }
    let value_checksum = crc32c::crc32c(&directory);
    Frame { entries: count, value: [directory, contents].concat(), value_checksum, ..frame }
}

/// Bytes 4..128 of an identity, in the order of the format's table.
fn identity(frame: &Frame, batch: u64, number: u32, following: u32, place: usize) -> [u8; IDENTITY_BYTES] {
    let mut out = vec![0, 0, 0, 0, frame.kind, 0, 0, 0];
    out.extend(((place / 8) as u32).to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(batch.to_le_bytes());
    out.extend(following.to_le_bytes());
    out.extend((frame.value.len() as u32).to_le_bytes());
    out.extend(frame.value_checksum.to_le_bytes());
    out.extend(frame.entries.to_le_bytes());
    out.extend(frame.position.to_le_bytes());
    out.extend(frame.group.to_le_bytes());
    out.extend(frame.log.to_le_bytes());
    out.extend(frame.slot.to_le_bytes());
    out.extend(frame.ballot.epoch.0.to_le_bytes());
    out.extend(frame.ballot.round.to_le_bytes());
    out.extend(frame.ballot.node.0.to_le_bytes());
    out.extend(frame.ballot.start.0.to_le_bytes());
    out.try_into().expect("the fields make 128 bytes")
}

/// Writes a record with the copy of its identity apart.
fn put_record(
    segment: &mut [u8],
    header: &Header,
    frame: &Frame,
    (here, apart): ([u8; IDENTITY_BYTES], [u8; IDENTITY_BYTES]),
    number: u32,
    place: usize,
) {
    put_identity(segment, header, here, 1, place);
    put(segment, place + IDENTITY_BYTES, &frame.value);
    let from_end = BLOCK_BYTES + (number as usize + 1) * IDENTITY_BYTES;
    if from_end <= segment.len() {
        put_identity(segment, header, apart, 2, segment.len() - from_end);
    }
}

fn put_identity(segment: &mut [u8], header: &Header, mut identity: [u8; IDENTITY_BYTES], copy: u8, offset: usize) {
    identity[5] = copy;
    let seed = [header.id.to_le_bytes(), (offset as u64).to_le_bytes()].concat();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&seed), &identity[4..]);
    identity[..4].copy_from_slice(&checksum.to_le_bytes());
    put(segment, offset, &identity);
}

/// What does not fit is cut off.
fn put(segment: &mut [u8], offset: usize, bytes: &[u8]) {
    let from = offset.min(segment.len());
    let until = (from + bytes.len()).min(segment.len());
    segment[from..until].copy_from_slice(&bytes[..until - from]);
}

#[derive(Default)]
struct Header {
    opened_at_start: u32,
    sequence: u64,
    id: u64,
    first_batch: u64,
    oldest: u64,
    cut_segment: u64,
    cut_batch: u64,
}

fn put_header(segment: &mut [u8], header: &Header) {
    let mut out = b"SYNODLOG".to_vec();
    out.extend(2u32.to_le_bytes());
    out.extend(header.opened_at_start.to_le_bytes());
    out.extend((segment.len() as u64).to_le_bytes());
    out.extend(header.sequence.to_le_bytes());
    out.extend(header.id.to_le_bytes());
    out.extend(NODE.0.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(header.first_batch.to_le_bytes());
    out.extend(header.oldest.to_le_bytes());
    out.extend(header.cut_segment.to_le_bytes());
    out.extend(header.cut_batch.to_le_bytes());
    out.resize(124, 0);
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    put(segment, 0, &out);
    let end = segment.len() - BLOCK_BYTES;
    put(segment, end, &out);
}

/// A number that is mostly plausible.
fn number(choices: &mut Unstructured<'_>, plausible: u64) -> Result<u64> {
    Ok(if choices.ratio(7, 8)? { choices.int_in_range(0..=plausible)? } else { choices.arbitrary()? })
}

fn lies(choices: &mut Unstructured<'_>) -> Result<Forgery> {
    let mut segments = Vec::new();
    for place in 1..=choices.int_in_range(1..=3u64)? {
        let header = Header {
            opened_at_start: u32::from(choices.arbitrary::<bool>()?),
            sequence: if choices.ratio(7, 8)? { place } else { choices.arbitrary()? },
            id: place,
            first_batch: number(choices, 9)?,
            oldest: number(choices, 2)?,
            cut_segment: number(choices, 3)?,
            cut_batch: number(choices, 9)?,
        };
        segments.push(lying_segment(choices, &header)?);
    }
    Ok(Forgery { segments, honest: None })
}

fn lying_segment(choices: &mut Unstructured<'_>, header: &Header) -> Result<Vec<u8>> {
    let mut segment = vec![0; SEGMENT_BYTES];
    put_header(&mut segment, header);
    let (mut place, mut batch) = (BLOCK_BYTES, header.first_batch);
    for number in 0..choices.int_in_range(0..=10u32)? {
        let mut frame = frame(sequence(choices)?, &record(choices)?);
        perhaps(choices, |choices| spoil(choices, &mut frame))?;
        batch = batch.wrapping_add(self::number(choices, 1)?);
        let following = self::number(choices, 1)? as u32;
        let honest = identity(&frame, batch, number, following, place);
        let (mut here, mut apart) = (honest, honest);
        if choices.ratio(1, 4)? {
            lie(choices, &mut here)?;
        }
        if choices.ratio(1, 4)? {
            lie(choices, &mut apart)?;
        }
        put_record(&mut segment, header, &frame, (here, apart), number, place);
        place += (IDENTITY_BYTES + frame.value.len()).next_multiple_of(8);
    }
    for _ in 0..choices.int_in_range(0..=3)? {
        let region =
            *choices.choose(&[0, BLOCK_BYTES, SEGMENT_BYTES - 2 * BLOCK_BYTES, SEGMENT_BYTES - BLOCK_BYTES])?;
        let damage: [u8; 4] = choices.arbitrary()?;
        put(&mut segment, region + choices.int_in_range(0..=BLOCK_BYTES)?, &damage);
    }
    Ok(segment)
}

/// Another kind, or other slots and ballots than any node writes.
fn spoil(choices: &mut Unstructured<'_>, frame: &mut Frame) -> Result<()> {
    match choices.int_in_range(0..=5)? {
        0 => frame.kind = choices.int_in_range(0..=15)?,
        1 => frame.slot = choices.arbitrary()?,
        2 => frame.ballot.epoch.0 = choices.arbitrary()?,
        3 => frame.ballot.round = choices.arbitrary()?,
        4 => frame.entries = choices.arbitrary()?,
        _ => frame.value_checksum = choices.arbitrary()?,
    }
    Ok(())
}

/// Any field of an identity says anything; its checksum will be right.
fn lie(choices: &mut Unstructured<'_>, identity: &mut [u8; IDENTITY_BYTES]) -> Result<()> {
    let field = *choices.choose(&[4, 8, 12, 16, 24, 28, 32, 36, 40, 48, 64, 80, 88, 96, 104, 120])?;
    let width = choices.int_in_range(1..=8)?.min(IDENTITY_BYTES - field);
    let bytes: [u8; 8] = choices.arbitrary()?;
    identity[field..field + width].copy_from_slice(&bytes[..width]);
    Ok(())
}
