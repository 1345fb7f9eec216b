use models::log::*;
use models::reads::{Reads, self};
use models::checker::*;
fn main() {
    let a: Vec<u8> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let f = |_d: usize, _n: usize| ();
    if a.is_empty() {
        use reads::Bug::*;
        for bug in [BelievesLowest, MajorityOfAnswers, OneAnswer, JoinsRoundSent, RoundsBeginAgain, BarrierNotFinished, AnswersUnsynced] {
            for (p, s, r, a, c, k) in [(1, 1, 1, 1, 0, 1), (1, 1, 1, 1, 0, 2), (1, 1, 1, 1, 1, 1), (1,1,1,1,1,2), (2,1,2,2,0,1), (2,1,2,2,1,1)] {
                let m = Reads::<3>::new(Log::new(p, s, r, a, c), k).with(bug);
                let m = if bug == AnswersUnsynced { m.with_answers_that_prove() } else { m };
                let rep = search(&m, 2_000_000);
                if let Outcome::Broken { .. } = rep.outcome { println!("{bug:?} {:?} {rep}", (p, s, r, a, c, k)); break; }
                println!("{bug:?} {:?} not: {} {:?} {:?} {:?}", (p,s,r,a,c,k), rep.states, rep.outcome, rep.elapsed, rep.unseen);
            }
        }
        return;
    }
    let m = Reads::<3>::new(Log::new(a[1], a[2], a[3], a[4], a[5]), usize::from(a[6]));
    let m = if a[0] == 1 { m.with_answers_that_prove() } else { m };
    let rep = search_telling(&m, 60_000_000, f);
    println!("{a:?} {rep} {:?}", rep.unseen);
}
