//! Records that cannot be written for a moment: what was let in is taken up again, and what was not
//! let in has not happened.

use vman_core::ports::RecordError;
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::scenes::{operations_of_vm, plays};
use super::*;
use crate::EngineError;

#[tokio::test(start_paused = true)]
async fn whichever_commit_is_refused_the_operation_is_taken_up_again() {
    for play in plays().iter().filter(|play| play.is_alone()) {
        for commits in 0.. {
            let world = play.scene().await;
            let before = (world.vm(samples::vm_id(1)).await, world.host.deeds());
            let story = format!("{}, commit {commits} refused", play.name());
            let records = Arc::new(Mortal::refused_after(&world, commits));
            let engine = world.engine_over(records.clone(), world.host.clone());
            match engine.command_vm(samples::vm_id(1), play.command, Reason::User, None).await {
                Ok(accepted) => {
                    let id = accepted.operation.expect("there is something to do");
                    let waited = engine.wait(id, LONG).await.expect("readable");
                    let was_refused = records.was_refused();
                    let ended = waited.expect("recorded").state.is_ended();
                    assert_eq!(ended, !was_refused, "{story}");
                    assert_eq!(engine.recover().await, Ok(usize::from(was_refused)), "{story}");
                    succeeded(&engine, id).await;
                    play.assert_fulfilled(&world, &story).await;
                    if !was_refused {
                        break;
                    }
                }
                Err(error) => {
                    let refused = RecordError::Unavailable("no space left on device".to_owned());
                    assert_eq!(error, EngineError::Record(refused), "{story}");
                    assert_eq!(commits, 0, "{story}");
                    assert_eq!(operations_of_vm(&world).await, [], "{story}");
                    assert_eq!(world.vm(samples::vm_id(1)).await, before.0, "{story}");
                    assert_eq!(world.host.deeds(), before.1, "{story}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_look_takes_up_what_the_records_refused() {
    let world = World::new().await;
    let vm = world.add_vm(1, VmState::Stopped).await;
    // Let in, begun, and then refused.
    let records = Arc::new(Mortal::refused_after(&world, 2));
    let engine = world.engine_over(records.clone(), world.host.clone());
    let id = ask(&engine, vm, VmCommand::Start).await;
    let waited = engine.wait(id, LONG).await.expect("readable").expect("recorded");
    assert!(records.was_refused());
    assert_eq!(waited.state, OperationState::Running);
    let look = world.look().await;
    engine.act_on(look).await.expect("the records can be used again");
    succeeded(&engine, id).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}
