use models::log::*;
use models::checker::*;
fn main() {
    bugs();
    let a: Vec<u8> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let f = |d: usize, n: usize| eprintln!("{d} {n}");
    let rep = if a[0] == 3 { search_telling(&Log::<3>::new(a[1], a[2], a[3], a[4], a[5]), 60_000_000, f) } else {search_telling(&Log::<5>::new(a[1], a[2], a[3], a[4], a[5]), 60_000_000, f)};
    println!("{a:?} {rep} {:?}", rep.unseen);
}
#[allow(dead_code)]
fn bugs() {
    for bug in [Bug::OwnsAfterRestart] {
            let m = Log::<3>::new(2, 1, 2, 2, 1).with(bug);
            println!("{}", search(&m, 2_000_000));
    }
}
