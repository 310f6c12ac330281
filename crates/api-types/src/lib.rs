//! The bodies of requests and responses, shared by server and client: plain data, and how each is
//! written in JSON and described in OpenAPI. No rule of vman is here: a value of these types may
//! still be refused by the server.
//!
//! Points in time are RFC 3339 in UTC with milliseconds, e.g. `2026-11-22T19:24:00.123Z`. Fields
//! that may be absent are left out when they are; fields that may be `null` are always there.

mod backend;
mod disk;
mod health;
mod issue;
mod network;
mod observer;
mod operation;
mod policy;
mod problem;
mod subject;
mod template;
mod vm;

pub use backend::Backend;
pub use disk::{AttachDisk, Disk, NewDisk, ResizeDisk};
pub use health::{Health, Ready};
pub use issue::{Candidate, Decision, DecisionError, Fact, FactValue, Issue};
pub use network::NetworkConfig;
pub use observer::ObserverStatus;
pub use operation::{Operation, OperationReason, OperationStep};
pub use policy::Policy;
pub use problem::{FieldProblem, PROBLEM_CONTENT_TYPE, Problem};
pub use subject::Subject;
pub use template::{Boot, NewTemplate, Template};
pub use vm::{NewVm, Process, Vm, VmPatch};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_boot_source_is_told_from_its_fields_and_mixed_ones_are_refused() {
        let kernel = json!({"kernel": "vmlinuz", "cmdline": "quiet"});
        let firmware = json!({"firmware": "OVMF.fd"});
        let parse = serde_json::from_value::<Boot>;
        assert_eq!(
            parse(kernel.clone()).ok(),
            Some(Boot::Kernel {
                kernel: "vmlinuz".to_owned(),
                initrd: None,
                cmdline: Some("quiet".to_owned())
            })
        );
        for whole in [kernel, firmware] {
            let back = parse(whole.clone()).map(serde_json::to_value).expect("a boot source");
            assert_eq!(back.expect("JSON"), whole);
        }
        let mixed = parse(json!({"kernel": "vmlinuz", "firmware": "OVMF.fd"}));
        assert_eq!(mixed.ok(), None);
    }

    #[test]
    fn facts_keep_the_type_of_their_value() {
        for value in [json!(true), json!(-7), json!("x"), json!(["a", "b"])] {
            let fact: Fact =
                serde_json::from_value(json!({"key": "k", "value": value})).expect("a fact");
            assert_eq!(serde_json::to_value(&fact.value).expect("JSON"), value);
        }
    }

    #[test]
    fn a_problem_leaves_out_the_members_it_does_not_have() {
        let bare = json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such route",
            "code": "no-such-route",
        });
        let problem: Problem = serde_json::from_value(bare.clone()).expect("a problem");
        assert_eq!(serde_json::to_value(problem).expect("JSON"), bare);
    }
}
