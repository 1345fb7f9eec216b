//! Writes valid encodings into a folder, for a search by coverage to begin with: `seed TARGET FOLDER [COUNT]`.

use arbitrary::Unstructured;
use fuzz::Mutator;
use std::path::PathBuf;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(folder)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        panic!("usage: seed TARGET FOLDER [COUNT]");
    };
    let count: u64 = arguments.next().map_or(20, |count| count.parse().expect("a number"));
    let target = fuzz::target(&name).unwrap_or_else(|| panic!("there is no target {name}"));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    for number in 0..count {
        let mut mutator = Mutator::new(number);
        let length = mutator.below(700);
        let choices = mutator.bytes(length);
        let input = (target.encode)(&mut Unstructured::new(&choices)).unwrap_or(choices);
        std::fs::write(folder.join(format!("seed-{:08x}", crc32c::crc32c(&input))), input).expect("it can be written");
    }
}
