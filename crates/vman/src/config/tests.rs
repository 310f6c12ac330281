//! Tests of the configuration: what is refused and how it is told, what overrides what, and that
//! the shipped file says the defaults.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::cli::Format;
use crate::client::Output;

/// A user's home with a folder of policies beside the program.
struct Host {
    folder: TempDir,
    surroundings: Surroundings,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir_all(bin.join("policies")).unwrap();
        fs::write(bin.join("policies/log_only.wasm"), "").unwrap();
        let surroundings = Surroundings {
            variables: [("HOME".to_owned(), folder.path().into())].into(),
            is_root: false,
            program_folder: Some(bin),
            system_file: folder.path().join("etc/vman.toml"),
            storage_option: None,
        };
        Self { folder, surroundings }
    }

    fn set(mut self, variable: &str, value: &str) -> Self {
        self.surroundings.variables.insert(variable.to_owned(), OsString::from(value));
        self
    }

    fn load_nothing(&self) -> Result<Loaded, ConfigError> {
        load(&Options::default(), &self.surroundings)
    }

    fn load(&self, text: &str) -> Result<Loaded, ConfigError> {
        let file = self.folder.path().join("vman.toml");
        fs::write(&file, text).unwrap();
        load(&Options { file: Some(file), storage: None }, &self.surroundings)
    }

    fn config(&self, text: &str) -> Config {
        self.load(text).unwrap().config
    }

    /// What is told of a file that is refused, without the file's folder.
    fn refusal(&self, text: &str) -> String {
        let told = self.load(text).expect_err(text).to_string();
        told.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn origin(loaded: &Loaded, key: &str) -> String {
    let setting = loaded.settings.iter().find(|setting| setting.key == key);
    setting.unwrap_or_else(|| panic!("{key} is not shown")).origin.to_string()
}

#[test]
fn without_any_file_every_key_has_a_default() {
    let host = Host::new();
    let Loaded { config, settings } = host.load_nothing().unwrap();
    assert_eq!(config.file, None);
    assert_eq!(config.server.listen, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(config.auth, AuthMode::Token);
    assert_eq!(config.storage, host.folder.path().join(".local/share/vman"));
    assert_eq!(config.backend.choice, BackendChoice::Auto);
    assert_eq!(config.backend.stop_grace, Duration::from_secs(10));
    assert_eq!(config.observer.interval, Duration::from_secs(5));
    assert_eq!(
        config.repair,
        Repair { enabled: true, budget: 5, window: Duration::from_secs(600) }
    );
    assert_eq!(config.network.subnet.gateway().to_string(), "10.77.0.1");
    assert_eq!(config.network.vlan_id, None);
    assert_eq!(config.log.file, Some(config.storage.join("logs/vman.log")));
    let names: Vec<&str> = config.chain.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["log-only"]);
    assert!(settings.iter().all(|setting| setting.origin == Origin::Default), "{settings:?}");
}

#[test]
fn the_shipped_file_with_every_key_uncommented_says_the_defaults() {
    let host = Host::new();
    let shipped = include_str!("../../../../config/vman.toml");
    let uncommented: Vec<&str> = shipped
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let mut defaults = host.load_nothing().unwrap();
    let mut loaded = host.load(&uncommented.join("\n")).unwrap();
    loaded.config.file = None;
    assert_eq!(loaded.config, defaults.config);

    let keys = |loaded: &mut Loaded| {
        loaded.settings.retain(|setting| !setting.key.starts_with("policy["));
        loaded.settings.iter().map(|setting| setting.key.clone()).collect::<Vec<_>>()
    };
    let every_key = keys(&mut defaults);
    assert_eq!(keys(&mut loaded), every_key);
    for key in every_key {
        let name = key.rsplit('.').next().unwrap();
        let line = format!("#{name} = ");
        assert!(shipped.lines().any(|l| l.starts_with(&line)), "{key} is not in the shipped file");
    }
    let as_shipped = host.load(shipped).unwrap();
    assert!(as_shipped.settings.iter().all(|setting| setting.origin == Origin::Default));
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_key() {
    let host = Host::new();
    let told = host.refusal("[server]\n\n  listn = \"127.0.0.1:1\"\n");
    assert_eq!(told, "vman.toml:3:3: unknown key `listn` in [server]; did you mean `listen`?");
    let told = host.refusal("[observr]\ninterval = \"1s\"\n");
    assert_eq!(
        told,
        "vman.toml:1:2: unknown key `observr` in the configuration; did you mean `observer`?"
    );
    let told = host.refusal("[auth]\nzebra = 1\n");
    assert_eq!(told, "vman.toml:2:1: unknown key `zebra` in [auth]; known are: mode");
    let told = host.refusal("[[policy]]\nname = \"log-only\"\npaht = \"x\"\n");
    assert_eq!(told, "vman.toml:3:1: unknown key `paht` in [[policy]]; did you mean `path`?");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let told = Host::new().refusal(
        "[log]\nlevel = \"loud\"\n[server]\nlisten = \"here\"\nport = 1\n[repair]\nbudget = -1\n",
    );
    let places: Vec<&str> = told.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(
        places,
        ["vman.toml:2:9", "vman.toml:4:10", "vman.toml:5:1", "vman.toml:7:10"],
        "{told}"
    );
}

#[test]
fn a_value_of_another_type_or_out_of_range_is_refused_with_its_place() {
    let host = Host::new();
    for (text, place, part) in [
        ("[observer]\ninterval = \"6s\"", "vman.toml:2:12: ", "5s is the most"),
        ("[observer]\ninterval = \"99ms\"", "vman.toml:2:12: ", "100ms is the least"),
        ("[observer]\ninterval = 5", "vman.toml:2:12: ", "string"),
        ("[repair]\nenabled = \"maybe\"", "vman.toml:2:11: ", "boolean"),
        ("[network]\nvlan_id = 4095", "vman.toml:2:11: ", "4094"),
        ("[network]\nsubnet = \"10.0.0.0/31\"", "vman.toml:2:10: ", "/30"),
        ("[network]\ngateway = \"10.78.0.1\"", "vman.toml:2:11: ", "10.77.0.0/24"),
        ("[network]\nbridge = \"a-name-that-is-too-long\"", "vman.toml:2:10: ", "15"),
        ("[backend]\nuse = \"../evil.so\"", "vman.toml:2:7: ", "../evil.so"),
        ("[log]\nfile = \"a/b\"", "vman.toml:2:8: ", "[log] dir"),
        ("[log]\nmax_bytes = 1", "vman.toml:2:13: ", "65536"),
        ("[server]\ncors_origins = [\"*\"]", "vman.toml:2:16: ", "wildcards"),
        (
            "[auth]\nmode = \"none\"\n[server]\nlisten = \"0.0.0.0:1\"",
            "vman.toml:2:8: ",
            "loopback",
        ),
        ("server = 1", "vman.toml:1:10: ", "must be a table"),
        ("[policy]\nname = \"log-only\"", "vman.toml:1:1: ", "[[policy]]"),
        ("[server]\nlisten = ", "vman.toml:2:", ""),
        ("[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", "vman.toml:3:1: ", "dup"),
    ] {
        let told = host.refusal(text);
        assert!(told.starts_with(place) && told.contains(part), "{text:?} gave {told:?}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn the_environment_overrides_the_file_and_an_empty_variable_does_not() {
    let host = Host::new()
        .set("VMAN_STORAGE_PATH", "/s")
        .set("VMAN_OPERATOR_DRY_RUN", "true")
        .set("VMAN_LOG_LEVEL", "WARNING")
        .set("VMAN_LOG_FILE", "other.log")
        .set("VMAN_LOG_DIR", "/l")
        .set("VMAN_LOG_MAX_BYTES", "70000")
        .set("VMAN_LOG_BACKUP_COUNT", "1")
        .set("VMAN_VLAN_ID", "7")
        .set("VMAN_BRIDGE_NAME", "br9")
        .set("VMAN_SUBNET", "10.9.0.0/16")
        .set("VMAN_GATEWAY", "10.9.0.9")
        .set("VMAN_DNS", "");
    let loaded = host
        .load("[backend]\nuse = \"qemu-kvm\"\n[network]\ndns = \"9.9.9.9\"\nvlan_id = 8\n")
        .unwrap();
    let config = &loaded.config;
    assert_eq!(config.storage, Path::new("/s"));
    assert_eq!(config.backend.choice, BackendChoice::Name("dry-run".to_owned()));
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.log.file, Some("/l/other.log".into()));
    assert_eq!((config.log.max_bytes, config.log.backup_count), (70_000, 1));
    assert_eq!(config.network.vlan_id, Some(7));
    assert_eq!(config.network.bridge, "br9");
    assert_eq!(config.network.subnet.network().to_string(), "10.9.0.0/16");
    assert_eq!(config.network.subnet.gateway().to_string(), "10.9.0.9");
    assert_eq!(config.network.dns, Some("9.9.9.9".parse().unwrap()));
    assert_eq!(origin(&loaded, "backend.use"), "environment VMAN_OPERATOR_DRY_RUN");
    assert_eq!(origin(&loaded, "network.vlan_id"), "environment VMAN_VLAN_ID");
    assert!(origin(&loaded, "network.dns").ends_with("vman.toml:4"));
    assert_eq!(origin(&loaded, "server.listen"), "default");
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    for (variable, value) in [
        ("VMAN_VLAN_ID", "many"),
        ("VMAN_LOG_LEVEL", "loud"),
        ("VMAN_LOG_MAX_BYTES", "10MB"),
        ("VMAN_OPERATOR_DRY_RUN", "perhaps"),
        ("VMAN_SUBNET", "10.0.0.0"),
        ("VMAN_GATEWAY", "192.0.2.1"),
    ] {
        let told = Host::new().set(variable, value).load_nothing().unwrap_err().to_string();
        assert!(told.starts_with(&format!("environment {variable}: ")), "{told}");
    }
}

#[test]
fn a_log_file_can_be_named_wanted_or_refused_in_the_environment() {
    let file = |value| Host::new().set("VMAN_LOG_FILE", value).load_nothing().unwrap().config.log;
    assert_eq!(file("false").file, None);
    assert!(file("1").file.unwrap().ends_with("logs/vman.log"));
    assert!(file("other").file.unwrap().ends_with("logs/other"));
}

#[test]
fn a_path_in_the_file_is_relative_to_the_files_folder() {
    let host = Host::new();
    let config = host.config("[storage]\npath = \"state\"\n[plugins]\ndir = \"/p\"\n");
    assert_eq!(config.storage, host.folder.path().join("state"));
    assert_eq!(config.plugins.dir, Some("/p".into()));
}

#[test]
fn the_command_line_names_the_storage_folder_above_all_else() {
    let host = Host::new().set("VMAN_STORAGE_PATH", "/s");
    let options = Options { file: None, storage: Some("/mine".into()) };
    let loaded = load(&options, &host.surroundings).unwrap();
    assert_eq!(loaded.config.storage, Path::new("/mine"));
    assert_eq!(origin(&loaded, "storage.path"), "option --storage");
}

#[test]
fn the_systems_file_is_read_only_where_no_other_is_named() {
    let host = Host::new();
    fs::create_dir_all(host.surroundings.system_file.parent().unwrap()).unwrap();
    fs::write(&host.surroundings.system_file, "[repair]\nenabled = false\n").unwrap();
    let unnamed = host.load_nothing().unwrap().config;
    assert_eq!(unnamed.file, Some(host.surroundings.system_file.clone()));
    assert!(!unnamed.repair.enabled);
    assert!(host.config("").repair.enabled);
}

#[test]
fn a_named_file_that_is_not_there_is_an_error_that_names_it() {
    let options = Options { file: Some("/nowhere/vman.toml".into()), storage: None };
    let told = load(&options, &Host::new().surroundings).unwrap_err().to_string();
    assert!(told.contains("/nowhere/vman.toml") && told.contains("No such file"), "{told}");
}

#[test]
fn the_log_is_in_the_storage_folder_unless_it_is_told_otherwise() {
    let config = Host::new().config("[storage]\npath = \"/s\"");
    assert_eq!(config.log.file, Some("/s/logs/vman.log".into()));
}

#[test]
fn a_policys_settings_reach_it_as_json_however_they_are_written() {
    let host = Host::new();
    let folder = host.surroundings.program_folder.clone().unwrap().join("policies");
    fs::write(folder.join("restart_crashed.wasm"), "").unwrap();
    let config = host.config(
        "[[policy]]\nname = \"restart-crashed\"\nmode = \"shadow\"\n\
         config = { max_attempts = 3, names = [\"a\"] }\n\
         [[policy]]\nname = \"log-only\"\nconfig = '{\"x\": 1}'\n\
         [[policy]]\nname = \"mine\"\npath = \"mine.wasm\"\nmode = \"off\"\n",
    );
    assert_eq!(config.chain.len(), 3);
    assert_eq!(config.chain[0].path, folder.join("restart_crashed.wasm"));
    assert_eq!(config.chain[0].mode, PolicyMode::Shadow);
    assert_eq!(config.chain[0].config, r#"{"max_attempts":3,"names":["a"]}"#);
    assert_eq!(config.chain[1].config, r#"{"x": 1}"#);
    assert_eq!(config.chain[2].path, host.folder.path().join("mine.wasm"));
    assert_eq!(config.chain[2].config, "{}");
}

#[test]
fn a_policy_that_cannot_be_asked_is_refused_with_its_place() {
    let host = Host::new();
    for (text, place, part) in [
        ("[[policy]]\nname = \"ghost\"", "vman.toml:2:8: ", "ghost.wasm is not there"),
        ("[[policy]]\nmode = \"off\"", "vman.toml:1:1: ", "name"),
        ("[[policy]]\nname = \"log-only\"\nconfig = \"{\"", "vman.toml:3:10: ", "not JSON"),
        ("[[policy]]\nname = \"log-only\"\nconfig = 3", "vman.toml:3:10: ", "a table, or a string"),
        (
            "[[policy]]\nname = \"log-only\"\n[[policy]]\nname = \"log-only\"",
            "vman.toml:4:8: ",
            "another policy",
        ),
    ] {
        let told = host.refusal(text);
        assert!(told.starts_with(place) && told.contains(part), "{text:?} gave {told:?}");
    }
}

#[test]
fn without_the_default_policys_file_the_chain_is_empty_and_says_so() {
    let host = Host::new().set("VMAN_POLICY_DIR", "/nowhere");
    let config = host.load_nothing().unwrap().config;
    assert_eq!(config.chain, []);
    assert!(config.warnings[0].contains("/nowhere/log_only.wasm"), "{:?}", config.warnings);
}

#[test]
fn a_backends_own_table_is_kept_as_it_is() {
    let config = Host::new().config(
        "[backend]\nuse = \"libmine.so\"\n[backends.dry-run]\nlaunch_ms = 5\n\
         [backends.mine]\nsince = 2026-01-02\nnested = { a = [1.5] }\n",
    );
    assert_eq!(config.backend.choice, BackendChoice::File("libmine.so".to_owned()));
    assert_eq!(config.backends["dry-run"], serde_json::json!({"launch_ms": 5}));
    assert_eq!(
        config.backends["mine"],
        serde_json::json!({"since": "2026-01-02", "nested": {"a": [1.5]}})
    );
}

#[test]
fn every_shown_value_has_its_source_and_can_be_read_back() {
    let host = Host::new();
    let loaded = host.load("[observer]\ninterval = \"250ms\"\n").unwrap();
    let mut shown = Vec::new();
    show::table(&loaded, &mut Output::new(Format::Table, &mut shown)).unwrap();
    let shown = String::from_utf8(shown).unwrap();
    let line = shown.lines().find(|line| line.starts_with("observer.interval")).unwrap();
    assert!(line.starts_with("observer.interval = \"250ms\"") && line.ends_with("vman.toml:2"));
    let tables: Vec<&str> = shown.lines().filter(|line| !line.starts_with("policy[")).collect();
    let again = host.config(&tables.join("\n"));
    assert_eq!(again, loaded.config);
}
