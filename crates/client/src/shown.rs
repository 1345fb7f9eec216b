//! Texts that others wrote, made fit for a log or an error message.
//!
//! Names, addresses and reasons come from other members, through the log or a connection. In C a NUL would cut the
//! message off; a line break would let them write lines of their own into the server's log, and an escape sequence
//! command the terminal that shows it.

/// The text with a space for each control character, in one line. Borrowed if there is nothing to replace.
pub fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    let is_unfit = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    match text.contains(is_unfit) {
        true => text.replace(is_unfit, " ").into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_text_of_anybodys_stays_one_line_without_commands() {
        assert_eq!(shown("host=a port=1"), "host=a port=1");
        assert_eq!(shown("ü, 字, \u{1f418}"), "ü, 字, \u{1f418}");
        let bytes = b"a\0b\r\nLOG:  forged\x1b[2J\x7f\xff\xc2\x85z";
        let text = shown(&String::from_utf8_lossy(bytes)).into_owned();
        assert_eq!(text, "a b  LOG:  forged [2J \u{fffd} z");
        assert!(shown("one\u{2028}two\u{2029}").chars().all(|character| !character.is_control()));
        assert_eq!(shown("one\u{2028}two\u{2029}"), "one two ");
    }
}
