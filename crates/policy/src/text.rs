//! Text from a guest, made fit to be shown: one line, of bounded length, that cannot steer a
//! terminal or forge a second line of a log.

/// What stands for the part that was cut off.
const CUT: &str = "…";

/// `text` with its control characters as spaces, cut at a character to at most `length_max` bytes.
pub(crate) fn one_line(text: &str, length_max: usize) -> String {
    let plain = text.trim().replace(char::is_control, " ");
    cut(plain, length_max)
}

/// `text` cut at a character to at most `length_max` bytes, the mark of the cut included.
pub(crate) fn cut(mut text: String, length_max: usize) -> String {
    if text.len() > length_max {
        let end = text.floor_char_boundary(length_max.saturating_sub(CUT.len()));
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

/// A number with a comma between its thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character_and_says_so() {
        assert_eq!(one_line("short", 10), "short");
        assert_eq!(one_line("ääääääää", 10), "äää…");
        assert_eq!(one_line(" a\r\nb\x1b[31m ", 100), "a  b [31m");
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(10_000_000), "10,000,000");
    }
}
