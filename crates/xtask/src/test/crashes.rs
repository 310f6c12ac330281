//! The table of the crash tests, from the rows that they wrote down: a line is `crash` and then one
//! word for each column. What the points are, it does not know.

use std::fmt;

const COLUMNS: [&str; 11] = [
    "verb",
    "backend",
    "points",
    "killed ok",
    "failed ok",
    "failed, then killed ok",
    "twice ok",
    "lost",
    "leaked",
    "killed by recovery",
    "untrue",
];
/// Columns of words; the others are counts, or counts out of counts.
const WORDS: usize = 2;
/// Between two columns.
const GAP: usize = 2;

/// The rows, sorted, and their sum, as a row and in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Crashes {
    rows: Vec<[String; COLUMNS.len()]>,
}

impl Crashes {
    /// Takes the lines that are rows.
    pub(super) fn parse(text: &str) -> Self {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let rows = text.lines().filter_map(|line| line.strip_prefix("crash "));
        let mut rows: Vec<_> = rows.filter_map(|row| words(row).try_into().ok()).collect();
        rows.sort_unstable();
        Self { rows }
    }

    fn sum(&self) -> [String; COLUMNS.len()] {
        let mut sum = [const { String::new() }; COLUMNS.len()];
        "in all".clone_into(&mut sum[0]);
        for (column, sum) in sum.iter_mut().enumerate().skip(WORDS) {
            let cells = self.rows.iter().map(|row| row[column].split('/').map(count));
            let added = cells.fold(Vec::new(), |added: Vec<usize>, cell| {
                cell.enumerate().map(|(i, n)| n + added.get(i).unwrap_or(&0)).collect()
            });
            let added: Vec<String> = added.iter().map(ToString::to_string).collect();
            *sum = added.join("/");
        }
        sum
    }
}

fn count(text: &str) -> usize {
    text.parse().unwrap_or_default()
}

impl fmt::Display for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let head = COLUMNS.map(str::to_owned);
        let lines: Vec<_> =
            [head].into_iter().chain(self.rows.clone()).chain([self.sum()]).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
        for line in &lines {
            let mut text = String::new();
            for (column, cell) in line.iter().enumerate() {
                let width = width(column).unwrap_or_default() + GAP;
                text += &if column < WORDS {
                    format!("{cell:width$}")
                } else {
                    format!("{cell:>width$}")
                };
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        let [_, _, points, killed, failed, undone, _, lost, leaked, ended, untrue] = self.sum();
        writeln!(
            f,
            "crash tests: {points} points; killed ok {killed}, failed ok {failed}, failed and then \
             killed ok {undone}; {lost} lost, {leaked} leaked, {ended} killed by recovery, \
             {untrue} untrue"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_added_up_and_other_lines_left_out() {
        let text = "qemu-tcg a test\n\
                    crash stop dry-run 12 12/12 8/8 0/0 1/1 0 0 0 0\n\
                    crash start dry-run 16 15/16 11/11 4/4 1/1 1 0 0 0\n";
        let table = Crashes::parse(text).to_string();
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[1].first(), Some(&"start"));
        let sum = ["in", "all", "28", "27/28", "19/19", "4/4", "2/2", "1", "0", "0", "0"];
        assert_eq!(lines[3], sum);
        let words = "crash tests: 28 points; killed ok 27/28, failed ok 19/19, failed and then \
                     killed ok 4/4; 1 lost, 0 leaked, 0 killed by recovery, 0 untrue";
        assert_eq!(table.lines().last(), Some(words));
    }

    #[test]
    fn no_row_is_no_table() {
        assert_eq!(Crashes::parse("skipped x: y\n").to_string(), "");
    }
}
