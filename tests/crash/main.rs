//! The law of being killed and of failing, on the whole program: every verb is carried out once to
//! see at which points it passes, and then killed at each of them and restarted, and made to fail at
//! each that can fail. Nothing may be lost, left over or ended that was to go on, and every
//! operation must end truthfully. The points are in the test build alone.
#![cfg(test)]

mod report;
mod stage;
mod trial;
mod verbs;
mod world;

/// A test for each verb on each of its backends.
macro_rules! verbs {
    ($($name:ident: $verb:ident on $($backend:ident),+;)+) => {
        $(mod $name {
            $(#[test]
            fn $backend() {
                let backend = match stringify!($backend) {
                    "dry_run" => "dry-run",
                    _ => "qemu-tcg",
                };
                crate::trial::prove(stringify!($name), backend, crate::verbs::$verb);
            })+
        })+
    };
}

verbs! {
    create_template: CREATE_TEMPLATE on dry_run;
    delete_template: DELETE_TEMPLATE on dry_run;
    create_vm: CREATE_VM on dry_run;
    start: START on dry_run, qemu_tcg;
    stop: STOP on dry_run, qemu_tcg;
    restart: RESTART on dry_run, qemu_tcg;
    delete_stopped_vm: DELETE_STOPPED_VM on dry_run;
    delete_running_vm: DELETE_RUNNING_VM on dry_run, qemu_tcg;
    create_disk: CREATE_DISK on dry_run, qemu_tcg;
    attach: ATTACH on dry_run;
    detach: DETACH on dry_run;
    delete_disk: DELETE_DISK on dry_run;
    guest_ended: GUEST_ENDED on dry_run, qemu_tcg;
    repair_restart: REPAIR_RESTART on dry_run, qemu_tcg;
    repair_mark_stopped: REPAIR_MARK_STOPPED on dry_run;
    repair_mark_running: REPAIR_MARK_RUNNING on dry_run;
    repair_stop: REPAIR_STOP on dry_run;
    repair_kill_process: REPAIR_KILL_PROCESS on dry_run;
    repair_quarantine: REPAIR_QUARANTINE on dry_run;
    repair_mark_missing: REPAIR_MARK_MISSING on dry_run;
}
