//! Which backend is used, and why.

use vman_operator::ChooseError;

use super::*;

fn storage() -> (TempDir, Storage) {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(folder.path().to_owned()).expect("storage");
    (folder, storage)
}

fn named(name: &str) -> Choice {
    Choice::Named(name.to_owned())
}

#[tokio::test]
async fn auto_takes_the_best_usable_one_and_says_why() {
    let (_folder, storage) = storage();
    let chosen = chosen(&storage, &Choice::Auto, plain()).await;
    assert_eq!(chosen.backend.name(), "dry-run");
    assert!(chosen.reason.starts_with("the best usable one: "), "{}", chosen.reason);
    assert_eq!(chosen.reports.len(), 1);
    let report = &chosen.reports[0];
    assert_eq!((report.name.as_str(), report.source.as_str()), ("dry-run", "linked"));
    assert_eq!((report.usable, report.selected), (Some(true), true));
    let why = "chosen by `auto`: the first usable one of qemu-kvm, qemu-tcg, dry-run";
    assert_eq!(report.notes.last().map(String::as_str), Some(why));
}

#[tokio::test]
async fn auto_takes_no_unusable_one() {
    let (_folder, storage) = storage();
    for settings in [json!({"unusable": "no machine"}), json!({"fail_probe": "no machine"})] {
        let error = try_choosing(&storage, &Choice::Auto, settings).await.expect_err("unusable");
        assert!(matches!(error, ChooseError::NoneUsable(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("dry-run: ") && text.contains("no machine"), "{text}");
    }
}

#[tokio::test]
async fn a_named_one_is_taken_even_if_it_says_that_it_is_unusable() {
    let (_folder, storage) = storage();
    let settings = json!({"unusable": "no machine can run here"});
    let chosen = chosen(&storage, &named("dry-run"), settings).await;
    assert_eq!(chosen.reason, "configured; no machine can run here");
    assert_eq!(chosen.reports[0].usable, Some(false));
    let why = chosen.reports[0].notes.last().map(String::as_str);
    assert_eq!(why, Some("chosen: `[backend] use` names it"));
}

#[tokio::test]
async fn an_unknown_name_is_refused_with_the_known_ones() {
    let (_folder, storage) = storage();
    let error = try_choosing(&storage, &named("xen"), plain()).await.expect_err("unknown");
    assert_eq!(error.to_string(), "no backend is named xen; known are: dry-run");
}

#[tokio::test]
async fn settings_that_are_wrong_keep_it_from_being_started_and_are_named() {
    let (_folder, storage) = storage();
    let settings = json!({"launchms": 5});
    let error = try_choosing(&storage, &named("dry-run"), settings).await.expect_err("wrong");
    assert!(matches!(error, ChooseError::Start { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("backend dry-run cannot be started: "), "{text}");
    assert!(text.contains("`launchms`"), "{text}");
}

#[tokio::test]
async fn a_file_that_is_no_plugin_is_refused_by_name_and_does_not_stop_the_others() {
    let (folder, storage) = storage();
    let plugins = folder.path().join("plugins");
    std::fs::create_dir(&plugins).expect("made");
    std::fs::write(plugins.join("broken.so"), "not a library").expect("written");
    let choosing = async |choice: Choice| {
        let plugins = Plugins { dir: Some(plugins.clone()), ..Plugins::default() };
        choose(&Wanted { plugins, ..wanted(&storage, &choice, plain()) }).await
    };
    let chosen = choosing(Choice::Auto).await.expect("the linked one");
    let report = chosen.reports.iter().find(|report| report.name == "broken.so").expect("told");
    assert_eq!((report.usable, report.selected), (None, false));
    assert!(report.reason.starts_with("refused: "), "{}", report.reason);

    let error = choosing(Choice::File("broken.so".into())).await.expect_err("refused");
    assert!(error.to_string().contains("plugins/broken.so"), "{error}");
    let error = choosing(Choice::File("missing.so".into())).await.expect_err("not there");
    assert!(error.to_string().contains("plugins/missing.so"), "{error}");
}
