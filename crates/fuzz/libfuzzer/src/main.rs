//! One program for all targets: `SYNOD_FUZZ_TARGET` names the one that libFuzzer's inputs go to.
#![no_main]

use fuzz::Target;
use std::sync::OnceLock;

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("SYNOD_FUZZ_TARGET").expect("SYNOD_FUZZ_TARGET names a target");
        fuzz::target(&name).unwrap_or_else(|| panic!("there is no target {name}"))
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| target().check(input));
