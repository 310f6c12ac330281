//! What a commit is called: its changes in their order, without what differs from run to run.

use vman_core::ports::Change;

/// E.g. `vm starting, add vm.start`.
pub(super) fn commit(changes: &[Change]) -> String {
    changes.iter().map(change).collect::<Vec<_>>().join(", ")
}

fn change(change: &Change) -> String {
    match change {
        Change::AddTemplate(_) => "add template".to_owned(),
        Change::RemoveTemplate(_) => "remove template".to_owned(),
        Change::AddVm(_) => "add vm".to_owned(),
        Change::RemoveVm(..) => "remove vm".to_owned(),
        Change::VmState { state, .. } => format!("vm {}", state.word()),
        Change::VmMachine { machine: Some(_), .. } => "machine lives".to_owned(),
        Change::VmMachine { machine: None, .. } => "machine gone".to_owned(),
        Change::VmAutostart { autostart, .. } => format!("autostart {autostart}"),
        Change::AddDisk(_) => "add disk".to_owned(),
        Change::RemoveDisk(_) => "remove disk".to_owned(),
        Change::DiskState { state, .. } => format!("disk {}", state.word()),
        Change::DiskSize { .. } => "disk size".to_owned(),
        Change::ExpectVm { .. } => "expect vm".to_owned(),
        Change::AddOperation(operation) => format!("add {}", operation.verb.word()),
        Change::RequestCancel(_) => "request cancel".to_owned(),
        Change::OperationState { state, .. } => format!("operation {}", state.word()),
        Change::OperationStep { step, .. } => {
            format!("{} {}", step.effect.word(), step.state.word())
        }
        Change::PutIssue(issue) => format!("{} {}", issue.kind.word(), issue.state.word()),
        Change::AddJudgement(_) => "add judgement".to_owned(),
        Change::KeepRequest(_) => "keep request".to_owned(),
        Change::HostBoot(_) => "host boot".to_owned(),
    }
}
