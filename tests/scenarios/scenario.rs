//! The text of a scenario, read: its settings, its steps and its expected log. What a step does is
//! `stage`'s to say.

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// TOML, below what every daemon of the tests has.
    pub(crate) settings: String,
    pub(crate) story: Vec<Step>,
    pub(crate) log: Vec<String>,
}

/// One line of the story, and what it asks for.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) text: String,
    pub(crate) deed: Deed,
}

/// What is done; the names are those that the story gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A new VM; with a root disk of its own, or none.
    Vm {
        name: String,
        rooted: bool,
    },
    /// A new disk.
    Disk {
        name: String,
    },
    /// An action of a VM, to its operation's end.
    Act {
        action: String,
        vm: String,
    },
    Attach {
        disk: String,
        vm: String,
    },
    Detach {
        disk: String,
    },
    /// Somebody deletes the machine's file.
    Crash {
        vm: String,
    },
    /// The simulated time, in milliseconds.
    Clock {
        ms: u64,
    },
    /// Until a VM or a disk is in a state.
    AwaitState {
        subject: String,
        state: String,
    },
    /// Until the newest issue of this kind about a VM or a disk was judged and is in a state.
    AwaitIssue {
        kind: String,
        subject: String,
        state: String,
    },
    /// Two more looks at everything.
    Look,
    /// What the daemon tells of its backend.
    Backend,
    /// SIGKILL, and a start.
    RestartDaemon,
}

impl Scenario {
    /// An error tells the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with("# ") {
            return Err("line 1: a scenario begins with what it tells, after `# `".to_owned());
        }
        let mut parts = ["", "--- settings", "--- story", "--- log"].map(|head| (head, Vec::new()));
        let mut part = 0;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with("---") {
                part += 1;
                let expected = parts.get(part).map_or("its end", |(head, _)| head);
                if line != expected {
                    return Err(format!("line {}: `{line}` instead of {expected}", index + 1));
                }
            } else {
                parts[part].1.push((index + 1, line.trim_end()));
            }
        }
        if part + 1 < parts.len() {
            return Err(format!("there is no part {}", parts[part + 1].0));
        }
        let [_, (_, settings), (_, story), (_, log)] = parts;
        let told = story.into_iter().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Ok(Self {
            settings: texts(settings).join("\n"),
            story: told
                .map(|(number, line)| Step::parse(number, line))
                .collect::<Result<_, _>>()?,
            log: texts(log).into_iter().filter(|line| !line.is_empty()).collect(),
        })
    }
}

fn texts(lines: Vec<(usize, &str)>) -> Vec<String> {
    lines.into_iter().map(|(_, line)| line.to_owned()).collect()
}

impl Step {
    fn parse(number: usize, line: &str) -> Result<Self, String> {
        let deed = deed(line).ok_or_else(|| format!("line {number}: `{line}` is no step"))?;
        Ok(Self { text: line.to_owned(), deed })
    }
}

fn deed(line: &str) -> Option<Deed> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let own = |word: &str| word.to_owned();
    Some(match words[..] {
        ["vm", name] => Deed::Vm { name: own(name), rooted: false },
        ["vm", name, "with", "root", "disk"] => Deed::Vm { name: own(name), rooted: true },
        ["disk", name] => Deed::Disk { name: own(name) },
        [action @ ("start" | "stop" | "restart" | "kill" | "pause" | "resume" | "reset"), vm] => {
            Deed::Act { action: own(action), vm: own(vm) }
        }
        ["attach", disk, "to", vm] => Deed::Attach { disk: own(disk), vm: own(vm) },
        ["detach", disk] => Deed::Detach { disk: own(disk) },
        ["crash", vm] => Deed::Crash { vm: own(vm) },
        ["clock", ms] => Deed::Clock { ms: ms.parse().ok()? },
        ["await", subject, state] => Deed::AwaitState { subject: own(subject), state: own(state) },
        ["await", "issue", kind, "of", subject, state] => {
            Deed::AwaitIssue { kind: own(kind), subject: own(subject), state: own(state) }
        }
        ["look"] => Deed::Look,
        ["backend"] => Deed::Backend,
        ["restart", "the", "daemon"] => Deed::RestartDaemon,
        _ => return None,
    })
}
