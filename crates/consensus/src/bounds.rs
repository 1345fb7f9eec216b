//! Every bound of the core in one place (rule 11), each with its derivation.
//!
//! Full means a prompt, clear refusal at the admission of new work; replies, notices, fences, catch-up and the control log
//! have room of their own and are never refused for want of it.

/// Largest entry: it fills a batch by itself, so that no message is larger than one of many small entries, and whatever is
/// behind it waits no longer. What does not fit travels in parts.
pub const ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// Bytes of an operation's body in one entry: what the largest entry has beside its headers (69 bytes at most), rounded down.
pub const PIECE_BYTES: usize = ENTRY_BYTES_MAX - 128;

/// Bytes of parts that wait in a group's state for the last ones of their operations, over all nodes: four operations of the
/// largest body that the local API takes (64 MiB), with what each part counts for beside its piece. A node sends one large
/// operation of a group at a time, so a fifth node at the same moment, or what nodes left behind that died in the middle, ends
/// the operation that has waited longest for its next part.
pub const ASSEMBLY_BYTES_MAX: usize = 4 * (64 << 20) + (1 << 20);

/// What a part counts for beside its piece: its place in maps and its slot, in memory and in a checkpoint. It bounds the number.
pub const PART_OVERHEAD_BYTES: usize = 256;

/// An operation lapses when this many slots come after one of its parts without another one. Its node has the next part on
/// its way before the one before is chosen; ahead of that stand at most an owner's full queue ([`PENDING_ENTRIES_MAX`]) and
/// what it has in flight ([`IN_FLIGHT_SLOTS_MAX`]), less than half of this; the rest is for a part that was lost on its way and
/// sent again. Past as many slots as the window remembers ids for ([`ID_WINDOW_MAX`]) its id may be forgotten anyway.
pub const PARTS_LAPSE_SLOTS: u64 = 1 << 17;

/// Entries in one accept, promise part or catch-up answer. A batch of small entries still fits one network buffer of a few
/// hundred kilobytes, and 4096 per round trip of 80 ms is 50,000 entries a second.
pub const BATCH_ENTRIES_MAX: usize = 4096;

/// Bytes of entries in one message; one entry larger than this travels alone. Small enough that a message does not hold up
/// heartbeats behind it (1 MiB takes 8 ms at 1 Gbit/s), large enough that headers do not count.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Largest encoded message: a full batch and, for each of its entries, 256 bytes, several times what slot, ballot and length
/// take. A configuration of the most and longest-named members (400 kB) and the positions of 16,000 logs fit as well.
pub const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX + BATCH_ENTRIES_MAX * 256;

/// Slots that an owner may have in flight in one log. At 100 ms a round trip this allows 160,000 entries a second.
pub const IN_FLIGHT_SLOTS_MAX: usize = 16_384;

/// Bytes that an owner may have in flight in one log: as many full batches as it may have in flight, and as much again for
/// what it carried over when it became the owner. On a link of 1 Gbit/s a quarter second.
pub const IN_FLIGHT_BYTES_MAX: usize = 2 * IN_FLIGHT_BATCHES_MAX * BATCH_BYTES_MAX;

/// Accept messages that an owner has in flight before it lets entries gather into larger ones. Enough to fill a link with a
/// batch being written, one on the way, and their answers; past that larger batches cost less than more of them.
pub const IN_FLIGHT_BATCHES_MAX: usize = 16;

/// Operations that a node admits and has not yet seen chosen, per log: one per connection of a large PostgreSQL server, with
/// room for the forwarded ones of its peers.
pub const PENDING_ENTRIES_MAX: usize = 32_768;

/// Bytes of those operations.
pub const PENDING_BYTES_MAX: usize = 256 << 20;

/// Slots above closed-up-to at which an acceptor takes entries: twice what an owner may have in flight, for a member whose
/// notices lag behind. Beyond, it refuses, and learns by fetching.
pub const ACCEPT_WINDOW_SLOTS: u64 = 2 * IN_FLIGHT_SLOTS_MAX as u64;

/// Bytes of entries above closed-up-to that an acceptor takes, likewise twice what an owner may have in flight. A member that
/// waits for a copy of the state must not fill its memory with what it cannot deliver.
pub const ACCEPT_WINDOW_BYTES: usize = 2 * IN_FLIGHT_BYTES_MAX;

/// Bytes of chosen entries per log kept in memory for members that fetch; older ones are read from the disk.
pub const CACHE_BYTES_MAX: usize = 32 << 20;

/// Entries of that cache: small entries cost more than their bytes.
pub const CACHE_ENTRIES_MAX: usize = 65_536;

/// Readers waiting in one log.
pub const READERS_MAX: usize = 32_768;

/// Read rounds of one log that may overlap: a round trip's worth of readers need not wait for the one before.
pub const READ_ROUNDS_MAX: usize = 4;

/// Chosen entries waiting in memory for a read from the disk to catch up with them are dropped above this many and read again.
pub const DELIVERY_READ_BYTES: usize = 4 << 20;

/// Members of a group. Quorums beyond this size serve nobody, and a set of members fits one word.
pub const MEMBERS_MAX: usize = 32;

/// Bytes of one text of a member: address, label or public key.
pub const MEMBER_TEXT_MAX: usize = 4096;

/// Groups on one node.
pub const GROUPS_MAX: usize = 4096;

/// Requests for changes of one group that wait for an answer on one node.
pub const CHANGES_MAX: usize = 64;

/// Reads from the disk on behalf of fetching peers that one log has outstanding; more are dropped, and asked for again.
pub const PEER_READS_MAX: usize = 8;

/// Nodes whose positions are remembered (rule 7): every member of every group, and as many again that have left.
pub const PEERS_MAX: usize = 2 * MEMBERS_MAX * 64;

/// Times that a forwarded entry may be passed on before it is handed back to where it came from.
pub const FORWARD_HOPS_MAX: u8 = 2;

/// Operation ids whose outcomes a group remembers (rule 10), over all nodes. At 10,000 operations a second 13 seconds, more
/// than a proposal waits; four times what all nodes of a group of seven may have pending is not needed, as most is decided.
/// One takes about 30 bytes of a checkpoint, so the window 4 MB.
pub const ID_WINDOW_MAX: usize = 1 << 17;

/// Bytes of an outcome's detail kept with its id.
pub const OUTCOME_BYTES_MAX: usize = 1024;

/// Logs whose positions travel with one heartbeat: 80 bytes each, so 80 kB at most.
pub const HEARTBEAT_LOGS_MAX: usize = 1024;

/// Nodes that one heartbeat names: every peer that is remembered, and the sender.
pub const HEARTBEAT_NODES_MAX: usize = PEERS_MAX + 1;

/// Logs of one group of whose positions one message tells: a tables group has two, and 64 thousand take 6 MB.
pub const GROUP_LOGS_MAX: usize = 1 << 16;

/// Bytes of entries that a witness keeps of one log for voters whose state lacks them: twice what a server keeps for laggards
/// by default, so that a voter which still finds all it lacks in the others' logs is not set aside. At twice this the group
/// admits nothing new, so a witness's disk holds 4 GiB of one log at most, and what was in flight.
pub const WITNESS_KEEP_BYTES: u64 = 2 << 30;

/// Entries kept likewise: four times what other members keep by default. Only one in a thousand takes memory.
pub const WITNESS_KEEP_ENTRIES: u64 = 4_000_000;

/// A learner within this many slots of the group is near enough to be promoted: half of what an acceptor takes ahead.
pub const PROMOTION_LAG_SLOTS: u64 = ACCEPT_WINDOW_SLOTS / 2;

/// An owner gathers entries while its own disk writes, for at most the failure time-out divided by this: 10 ms by default,
/// longer than a sync takes on any disk fit for the work.
pub const GATHERING_PART: u32 = 100;

/// Entries within a dwell time below which it does not matter who owns a log.
pub const HAND_OVER_ENTRIES_MIN: u64 = 64;

/// The part of a log's entries that must come from one node before it is invited to own the log, and from another before that
/// one is: three quarters of two windows are no accident, and two nodes cannot both have them.
pub const HAND_OVER_SHARE: (u64, u64) = (3, 4);

/// Bytes handed to the log and not yet durable beyond which records wait for their group's turn: two of storage's batches of
/// 4 MiB, one being written and one to follow it at once. A small group's record waits for these, and for one turn of each
/// other group that has much to write.
pub const LOG_AHEAD_BYTES: u64 = 8 << 20;

/// Bytes of records that a group may hand to the log in one turn: a message full of entries.
pub const TURN_BYTES: u64 = BATCH_BYTES_MAX as u64;

/// Bytes of records that may wait for their turn: as many as storage takes before it says that the disk stands still. Beyond,
/// everything is handed over, and storage says so.
pub const WAITING_BYTES_MAX: u64 = 1 << 30;

/// Damaged slots of one log that are being fetched again; more are told again when storage looks the next time.
pub const HEALING_SLOTS_MAX: usize = 4096;

/// Logs of values of one group in memory, beyond which the least recently used idle ones are unloaded. New work is refused when
/// all of them are in use; what peers ask has as much room again, so that two full nodes do not wait for each other, and one log
/// that this node has to see to has a place beside them: twice as many and one are the most. One takes about two kilobytes and
/// its value.
pub const RESIDENT_LOGS_MAX: usize = 4096;

/// Bytes of values of one group in memory, likewise.
pub const RESIDENT_BYTES_MAX: usize = 256 << 20;

/// Logs looked at, from the least recently used on, to find one to unload: the others are in use, and take their place behind.
pub const UNLOAD_LOOKS_MAX: usize = 32;

/// Messages and requests that wait for logs of one group to be loaded: at a millisecond a load a quarter second of 64,000 a
/// second. What peers sent beyond that is dropped, and sent again by them; new work is refused.
pub const LOADING_WORK_MAX: usize = 16_384;

/// Those of one log: one from each member for each thing that it may ask, several times over.
pub const LOADING_WORK_PER_LOG_MAX: usize = 1024;

/// Bytes of entries among them.
pub const LOADING_BYTES_MAX: usize = 64 << 20;

/// Logs in one page of a list of logs: 40 bytes each, so 40 kB, and no more of them are brought up to date at a time.
pub const PAGE_LOGS: usize = 1024;

/// Logs that a comparison with another member has under way at a time.
pub const COMPARISON_AHEAD: usize = 16;

/// Lists of logs that the disk is asked for at a time, for a group: two for each member; more are dropped and asked for again.
pub const LISTS_MAX: usize = 2 * MEMBERS_MAX;

/// Logs of a group that wait for their turn, and those whose open slot is remembered to be void: what is beyond waits for the next
/// comparison or use.
pub const UNFINISHED_LOGS_MAX: usize = 1 << 16;
