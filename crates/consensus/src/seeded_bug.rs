//! Bugs put in on purpose, one for each rule that a test must be able to see broken. They exist only with the feature
//! `seeded_bugs`, which no shipped build has; without it [`is_planted`] is the constant `false`.

macro_rules! seeded_bugs {
    ($($name:ident: $breaks:literal,)+) => {
        /// A rule broken on purpose.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum SeededBug {
            $(#[doc = $breaks] $name,)+
        }

        impl SeededBug {
            /// All of them.
            pub const ALL: &[SeededBug] = &[$(SeededBug::$name),+];

            /// Those that only a group of logs of values can show.
            pub const OF_VALUES: &[SeededBug] = &[
                SeededBug::ValueAcceptedAhead,
                SeededBug::ValueFollowsAnything,
                SeededBug::NewestNotWritten,
                SeededBug::UnloadedIsEmpty,
                SeededBug::UnloadedUnwritten,
                SeededBug::SyncPassOfLoaded,
                SeededBug::ListedBeforeFence,
            ];

            /// Which rule is broken, and how.
            #[must_use]
            pub fn breaks(self) -> &'static str {
                match self {
                    $(SeededBug::$name => $breaks,)+
                }
            }
        }
    };
}

seeded_bugs! {
    ChosenUnderAnyBallot: "Rule 1: an own entry is taken as chosen whatever ballot the notice names.",
    EqualValuesAreChosen: "Rule 1: acceptances of a slot under different ballots count together.",
    PhaseOneForgets: "Rule 2: the values found in phase 1 are forgotten.",
    PhaseOneTakesLowest: "Rule 2: of the values found in phase 1 the one of the lowest ballot is taken.",
    PhaseOneIgnoresClosed: "Rule 2: phase 1 does not first learn what an acceptor knows closed.",
    ReplyBeforeDurable: "Rule 3: replies leave before their records are durable.",
    PromiseNotWritten: "Rule 3: a promise is answered and never written down.",
    PhaseOnePastQueuedAccept: "Rule 3: a phase-1 answer leaves out what was accepted and is still in the queue.",
    FsyncRetried: "Rules 3 and 9: a sync that failed is tried again, and the second answer believed.",
    BallotsWithoutEpoch: "Rule 4: acceptors do not look at the epoch of a ballot or message.",
    BallotsWithoutStart: "Rule 4: a restarted node uses the ballots of its earlier start.",
    OwnerResumesAfterRestart: "Rule 4: an owner that restarted goes on under its ballot.",
    OwnerResumesAfterEpoch: "Rule 4: an owner goes on under its ballot when the epoch changes.",
    OwnerResumesAfterAnother: "Rule 4: an owner goes on, and vouches for its slots, after another ballot finished one of them.",
    ReadBelievesLowest: "Rule 5: a read believes the lowest answer.",
    ReadCountsAnswers: "Rule 5: a read takes a majority of the answers for a quorum.",
    ReadJoinsSentRound: "Rule 5: a reader joins a round that was sent already.",
    ReadRoundsBeginAgain: "Rule 5: an answer to a read of an earlier start counts.",
    ReadShowsUnsynced: "Rule 5: a read answer shows acceptances that are not durable.",
    JointAsksNewOnly: "Rule 6: in a joint epoch phase 1 and 2 ask a quorum of the new voters only.",
    JointStepSkipped: "Rule 6: voters change without a joint epoch.",
    RemovedToldAtOnce: "Rule 6: a removed node is told before a quorum of those that stay knows.",
    NoSyncPass: "Rule 6: the new epoch comes without a sync pass.",
    SyncPassFromOne: "Rule 6: a sync pass believes the first of the old voters that answers.",
    LostDiskRejoins: "Rule 7: a node that lost its disk comes back as itself, and is not refused.",
    WordBeforeHeartbeat: "Rule 7: what a start says counts before its first heartbeat has shown where its log stands.",
    NoOpOverDamage: "Rule 9: a damaged acceptance counts as nothing accepted.",
    VotesFromJointEpoch: "Rule 9: a node that lost its promises votes from the joint epoch on.",
    RenewalOfBefore: "Rule 9: a renewal lets a node vote again whatever start of it the change names.",
    SentMeansFailed: "Rule 10: what was sent is answered as definitely failed.",
    RejectedIdUsedAgain: "Rule 10: a rejected operation does not use its id up.",
    WitnessTrimsByLiveMembers: "Design, section 4: a witness trims what the members in contact hold, not what every voter does.",
    CertificationFromWindow: "Design, section 4: certification is rebuilt from the last entries of the log.",
    ValueAcceptedAhead: "Values: an acceptor takes a value whose slot is not the one after the newest that it knows.",
    ValueFollowsAnything: "Values: a proposer puts a value behind another one than it was made from.",
    NewestNotWritten: "Values: the newest value that another member sent is taken without being written down.",
    UnloadedIsEmpty: "Rule 3: a log that is not in memory is taken for one that nothing was ever promised in.",
    UnloadedUnwritten: "Rule 3: a log leaves memory before what was promised in it is durable.",
    SyncPassOfLoaded: "Rule 6: the sync pass asks only for the logs that are in memory.",
    ListedBeforeFence: "Rule 6: the disk is asked for its logs before what was accepted ahead of the fence is durable.",
}

#[cfg(feature = "seeded_bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<SeededBug>> = const { std::cell::Cell::new(None) };
}

/// Puts a bug into every core of this thread, in place of any other.
#[cfg(feature = "seeded_bugs")]
pub fn plant(bug: Option<SeededBug>) {
    PLANTED.set(bug);
}

/// Whether this bug was put into the cores of this thread, or into what runs them in a test.
#[cfg(feature = "seeded_bugs")]
#[must_use]
pub fn is_planted(bug: SeededBug) -> bool {
    PLANTED.get() == Some(bug)
}

/// No bug is ever planted in this build.
#[cfg(not(feature = "seeded_bugs"))]
#[must_use]
pub const fn is_planted(_bug: SeededBug) -> bool {
    false
}
