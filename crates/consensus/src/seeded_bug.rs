//! Bugs put in on purpose, one for each rule that a test must be able to see broken. They exist only with the feature
//! `seeded_bugs`, which no shipped build has; without it [`is_planted`] is the constant `false`.

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SeededBug {
    /// Rule 1: an own entry is taken as chosen whatever ballot the notice names.
    ChosenUnderAnyBallot,
    /// Rule 2: the values found in phase 1 are forgotten.
    PhaseOneForgets,
    /// Rule 2: of the values found in phase 1 the one of the lowest ballot is taken.
    PhaseOneTakesLowest,
    /// Rule 3: replies leave before their records are durable.
    ReplyBeforeDurable,
    /// Rule 3: a promise is answered and never written down.
    PromiseNotWritten,
    /// Rule 4: a restarted node uses the ballots of its earlier start.
    BallotsWithoutStart,
    /// Rule 5: a read believes the lowest answer.
    ReadBelievesLowest,
    /// Rule 5: an answer to a read of an earlier start counts.
    ReadRoundsBeginAgain,
    /// Rule 6: in a joint epoch phase 1 and 2 ask a quorum of the new voters only.
    JointAsksNewOnly,
    /// Rule 6: the new epoch comes without a sync pass.
    NoSyncPass,
    /// Rule 10: what was sent is answered as definitely failed.
    SentMeansFailed,
}

#[cfg(feature = "seeded_bugs")]
impl SeededBug {
    /// All of them.
    pub const ALL: [SeededBug; 11] = [
        SeededBug::ChosenUnderAnyBallot,
        SeededBug::PhaseOneForgets,
        SeededBug::PhaseOneTakesLowest,
        SeededBug::ReplyBeforeDurable,
        SeededBug::PromiseNotWritten,
        SeededBug::BallotsWithoutStart,
        SeededBug::ReadBelievesLowest,
        SeededBug::ReadRoundsBeginAgain,
        SeededBug::JointAsksNewOnly,
        SeededBug::NoSyncPass,
        SeededBug::SentMeansFailed,
    ];
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

#[cfg(feature = "seeded_bugs")]
pub(crate) fn is_planted(bug: SeededBug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(feature = "seeded_bugs"))]
pub(crate) const fn is_planted(_bug: SeededBug) -> bool {
    false
}
