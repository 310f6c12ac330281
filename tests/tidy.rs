//! Holds the form of every source file: what it opens with, how long it and its functions and lines
//! may be, and what must not stand in it. Formatting is rustfmt's, and meaning is for reviews.
#![cfg(test)]

use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, ItemFn, ItemMod, Signature, TraitItemFn};
use vman_tests::source::{assert_none, sources};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;

/// Calls that must not stand outside of tests.
const UNWRAP: &str = "unwrap";
/// Macros that say "not done yet".
const UNFINISHED: [&str; 2] = ["todo", "unimplemented"];

#[test]
fn every_source_file_keeps_the_form() {
    assert_none(sources().iter().flat_map(|file| violations(&file.path, &file.text)));
}

#[test]
fn a_file_opens_with_what_it_is_for() {
    assert_eq!(found("use std::fs;\n"), ["1: opens without `//!`"]);
    assert_eq!(found("//! Something.\nuse std::fs;\n"), [""; 0]);
}

#[test]
fn a_file_a_function_and_a_line_have_their_limits() {
    let long_file = format!("//! X.\n{}", "// x\n".repeat(FILE_LINES_MAX));
    assert_eq!(found(&long_file), ["601: 601 lines, and 600 are the most"]);
    let function = |lines| format!("//! X.\n/// Y.\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    assert_eq!(found(&function(FUNCTION_LINES_MAX - 2)), [""; 0]);
    let too_long = ["3: fn f has 71 lines, and 70 are the most"];
    assert_eq!(found(&function(FUNCTION_LINES_MAX - 1)), too_long);
    let method = function(FUNCTION_LINES_MAX - 1).replace("/// Y.", "impl X {") + "}";
    assert_eq!(found(&method), too_long);
    let line = format!("//! {}\n", "ä".repeat(LINE_COLUMNS_MAX - 4));
    assert_eq!(found(&line), [""; 0]);
    assert_eq!(found(&line.replace("! ", "!  ")), ["1: 101 columns, and 100 are the most"]);
}

#[test]
fn unwrap_stands_in_tests_alone_and_is_found_in_macros_too() {
    let code = "fn f() { g().unwrap(); }";
    assert_eq!(found(&format!("//! X.\n{code}")), ["2: unwrap() outside of tests"]);
    let in_macro = "//! X.\nfn f() { println!(\"{}\", g().unwrap()); }";
    assert_eq!(found(in_macro), ["2: unwrap() outside of tests"]);
    for test in [
        format!("//! X.\n#[cfg(test)]\nmod tests {{\n{code}\n}}"),
        format!("//! X.\n#[test]\n{code}"),
        format!("//! X.\n#[tokio::test]\nasync {code}"),
        format!("//! X.\n#![cfg(test)]\n{code}"),
        "//! X.\nfn f() { g().unwrap_or(1); }".to_owned(),
        "//! `g().unwrap()`\n".to_owned(),
    ] {
        assert_eq!(found(&test), [""; 0], "{test}");
    }
    assert_eq!(violations("plugins/x/tests/y.rs", &format!("//! X.\n{code}")), [""; 0]);
}

#[test]
fn nothing_is_ignored_or_left_to_do() {
    assert_eq!(found("//! X.\n#[test]\n#[ignore]\nfn f() {}"), ["3: #[ignore]"]);
    assert_eq!(found("//! X.\n#[ignore = \"slow\"]\nfn f() {}"), ["2: #[ignore]"]);
    assert_eq!(found("//! X.\nfn f() {\n    todo!()\n}"), ["3: todo!"]);
    let in_test = "//! X.\n#[test]\nfn f() {\n    unimplemented!(\"later\")\n}";
    assert_eq!(found(in_test), ["4: unimplemented!"]);
}

#[test]
fn every_violation_of_a_file_is_told() {
    let text = "fn f() { todo!() }\nfn g() { h().unwrap() }\n";
    assert_eq!(found(text), ["1: opens without `//!`", "1: todo!", "2: unwrap() outside of tests"]);
}

#[test]
fn a_file_that_does_not_parse_is_a_violation() {
    let found = found("//! X.\nfn f( {}");
    assert!(matches!(found.as_slice(), [one] if one.contains("does not parse")), "{found:?}");
}

/// The violations of a snippet, without its path.
fn found(text: &str) -> Vec<String> {
    let all = violations("x.rs", text);
    all.iter().map(|one| one.trim_start_matches("x.rs:").to_owned()).collect()
}

/// Everything about a file that is not as it must be, as `path:line: what`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut all = lines_broken(text);
    match syn::parse_file(text) {
        Ok(file) => {
            let mut form = Form::default();
            if is_test_file(path) || file.attrs.iter().any(is_cfg_test) {
                form.tests.push(1..=usize::MAX);
            }
            form.visit_file(&file);
            let tokens = text.parse().expect("what parses as a file consists of tokens");
            form.scan(tokens);
            all.extend(form.broken);
        }
        Err(error) => all.push((error.span().start().line, format!("does not parse: {error}"))),
    }
    all.sort();
    all.into_iter().map(|(line, what)| format!("{path}:{line}: {what}")).collect()
}

fn lines_broken(text: &str) -> Vec<(usize, String)> {
    let mut broken = Vec::new();
    if !text.starts_with("//!") {
        broken.push((1, "opens without `//!`".to_owned()));
    }
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        broken.push((count, format!("{count} lines, and {FILE_LINES_MAX} are the most")));
    }
    for (line, columns) in text.lines().map(|line| line.chars().count()).enumerate() {
        if columns > LINE_COLUMNS_MAX {
            let what = format!("{columns} columns, and {LINE_COLUMNS_MAX} are the most");
            broken.push((line + 1, what));
        }
    }
    broken
}

/// Integration tests, and unit tests in a file of their own.
fn is_test_file(path: &str) -> bool {
    let is_folder = path.split('/').any(|part| part == "tests");
    is_folder || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

/// `#[test]`, `#[tokio::test]` and their like.
fn is_test(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|last| last.ident == "test")
}

/// A file, read in two passes: its items by the tree, its words by the tokens, since a macro's
/// content is no tree.
#[derive(Default)]
struct Form {
    /// Lines of tests.
    tests: Vec<RangeInclusive<usize>>,
    broken: Vec<(usize, String)>,
}

impl<'ast> Visit<'ast> for Form {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if let Some((brace, _)) = &item.content
            && item.attrs.iter().any(is_cfg_test)
        {
            self.tests.push(lines(brace.span.open(), brace.span.close()));
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("ignore") {
            let line = attribute.pound_token.span.start().line;
            self.broken.push((line, "#[ignore]".to_owned()));
        }
    }
}

impl Form {
    fn function(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let all = lines(signature.fn_token.span, block.brace_token.span.close());
        let count = all.end() - all.start() + 1;
        if count > FUNCTION_LINES_MAX {
            let name = &signature.ident;
            let what =
                format!("fn {name} has {count} lines, and {FUNCTION_LINES_MAX} are the most");
            self.broken.push((*all.start(), what));
        }
        if attributes.iter().any(|attribute| is_test(attribute) || is_cfg_test(attribute)) {
            self.tests.push(all);
        }
    }

    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for window in tokens.windows(3) {
            if let [TokenTree::Punct(dot), TokenTree::Ident(name), TokenTree::Group(arguments)] =
                window
                && dot.as_char() == '.'
                && name == UNWRAP
                && arguments.delimiter() == Delimiter::Parenthesis
                && arguments.stream().is_empty()
            {
                self.outside_of_tests(name.span(), "unwrap() outside of tests");
            }
        }
        for window in tokens.windows(2) {
            if let [TokenTree::Ident(name), TokenTree::Punct(mark)] = window
                && mark.as_char() == '!'
                && UNFINISHED.iter().any(|unfinished| name == unfinished)
            {
                self.broken.push((name.span().start().line, format!("{name}!")));
            }
        }
        for token in tokens {
            if let TokenTree::Group(group) = token {
                self.scan(group.stream());
            }
        }
    }

    fn outside_of_tests(&mut self, span: Span, what: &str) {
        let line = span.start().line;
        if !self.tests.iter().any(|lines| lines.contains(&line)) {
            self.broken.push((line, what.to_owned()));
        }
    }
}

fn lines(from: Span, to: Span) -> RangeInclusive<usize> {
    from.start().line..=to.end().line
}
