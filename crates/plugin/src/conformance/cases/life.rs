//! A machine's life: launched, asked to power off, ended; every verb again and again.

use crate::conformance::bench::{Bench, REPEATS, end_all, in_state, is_gone, listed};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Outcome, Works, ensure, fails, told, until};
use crate::host::Client;
use crate::{
    BackendError, Boot, Control, DiskAttachment, DiskGrowth, DiskRemoval, ErrorCode, Machine,
    MachineSpec, RunState, Unplug,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "launch-again-is-the-same-machine",
        "A machine that lives is returned as it is, ten times.",
        &[Need::Machines],
        |bench| Box::pin(launch_again(bench)),
    ),
    Case::new(
        "kill-ends-and-again-succeeds",
        "A killed machine is gone when the verb returns; killing and quitting it again succeed.",
        &[Need::Machines],
        |bench| Box::pin(ends(bench, true)),
    ),
    Case::new(
        "quit-ends-and-again-succeeds",
        "A machine that was quit is gone when the verb returns; ending it again succeeds.",
        &[Need::Machines],
        |bench| Box::pin(ends(bench, false)),
    ),
    Case::new(
        "a-machine-that-is-gone-is-not-found",
        "Verbs that need a machine say `not-found` when it is gone; `detach-disk` is done.",
        &[Need::Machines],
        |bench| Box::pin(gone_is_not_found(bench)),
    ),
    Case::new(
        "a-machine-lives-again",
        "A machine that was ended is launched again in the same folder, as a new one.",
        &[Need::Machines],
        |bench| Box::pin(lives_again(bench)),
    ),
    Case::new(
        "the-power-button-can-be-pressed-again",
        "Pressed ten times it succeeds, or says `not-found` of a machine that has ended meanwhile.",
        &[Need::Machines, Need::PowerButton],
        |bench| Box::pin(power_button_again(bench)),
    ),
    Case::new(
        "the-power-button-is-obeyed",
        "A guest that obeys powers off, which is told, and its machine can be ended.",
        &[Need::Machines, Need::PowerButton, Need::Obedience],
        |bench| Box::pin(power_button_is_obeyed(bench)),
    ),
    Case::new(
        "a-launch-that-fails-leaves-nothing",
        "A machine with a disk that is not there fails to launch, says why, and does not live.",
        &[Need::Machines, Need::HotPlug, Need::Images],
        |bench| Box::pin(failed_launch(bench)),
    ),
];

async fn launch_again(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, first) = bench.launched(client).await?;
    for _ in 0..REPEATS {
        let again = client.launch(spec.clone()).await.works("launching a machine that lives")?;
        ensure!(again == first, "launched again it is {again:?} and not {first:?}");
    }
    ensure!(listed(client).await? == [spec.id], "there is more than the one machine");
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn ends(bench: &Bench, by_kill: bool) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    for _ in 0..REPEATS {
        if by_kill {
            client.kill(spec.id).await.works("a kill")?;
        } else {
            client.quit(spec.id).await.works("a quit")?;
        }
        is_gone(client, spec.id).await?;
    }
    client.kill(spec.id).await.works("a kill of a machine that is gone")?;
    client.quit(spec.id).await.works("a quit of a machine that is gone")?;
    instance.end().await
}

async fn gone_is_not_found(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, machine) = bench.launched(client).await?;
    end_all(client, &[spec.id]).await?;
    for (verb, result) in of_a_machine_that_is_gone(bench, client, &machine).await {
        fails(result, &format!("{verb} of a machine that is gone"), &[ErrorCode::NotFound])?;
    }
    let buses = bench.capabilities().hot_plug.clone();
    for bus in buses.into_iter().take(1) {
        let id = spec.id;
        let disk = bench.disk(client, bus).await?;
        let attachment = DiskAttachment { id, disk: disk.clone() };
        let not_found = &[ErrorCode::NotFound];
        fails(client.attach_disk(attachment).await, "giving it a disk", not_found)?;
        let growth = DiskGrowth { id, disk: disk.id, virtual_size: 1 << 30 };
        fails(client.resize_disk(growth).await, "growing a disk of it", not_found)?;
        let removal = DiskRemoval { id, disk: disk.id, path: Some(disk.path) };
        let unplug = client.detach_disk(removal).await.works("taking a disk from it")?;
        ensure!(unplug == Unplug::Done, "a machine that is gone is waited for to give a disk back");
    }
    instance.end().await
}

async fn of_a_machine_that_is_gone(
    bench: &Bench,
    client: &Client,
    machine: &Machine,
) -> Vec<(&'static str, Result<(), BackendError>)> {
    let (id, can) = (machine.id, bench.capabilities());
    let mut results = vec![("`reattach`", client.reattach(machine.clone()).await.map(drop))];
    if can.power_button {
        results.push(("`power-button`", client.power_button(id).await));
    }
    if can.pause {
        results.push(("`pause`", client.pause(id).await));
        results.push(("`resume`", client.resume(id).await));
    }
    if can.reset {
        results.push(("`reset`", client.reset(id).await));
    }
    results
}

async fn lives_again(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, first) = bench.launched(client).await?;
    end_all(client, &[spec.id]).await?;
    let second = client.launch(spec.clone()).await.works("launching it once more")?;
    ensure!(
        second.process.is_none() || second.process != first.process,
        "the new machine is told to be the process that has ended, {first:?}"
    );
    in_state(client, spec.id, RunState::Running).await?;
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn power_button_again(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    for _ in 0..REPEATS {
        if let Err(error) = client.power_button(spec.id).await {
            let gone = client.sight(spec.id).await.works("looking at it")?.is_none();
            ensure!(
                error.code == ErrorCode::NotFound && gone,
                "the power button fails as {}, and the machine is {}",
                told(&error),
                if gone { "gone" } else { "there" }
            );
        }
    }
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn power_button_is_obeyed(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    until("the guest powers off", async || {
        // Pressed before the guest is up it is not heard.
        match client.power_button(spec.id).await {
            Err(error) if error.code != ErrorCode::NotFound => {
                Err(error).works("the power button")?;
            }
            Ok(()) | Err(_) => {}
        }
        let seen = client.sight(spec.id).await.works("looking at it")?;
        let off = Control::Connected { run_state: RunState::GuestShutdown };
        Ok(seen.is_none_or(|seen| seen.control == off).then_some(()))
    })
    .await?;
    client.quit(spec.id).await.works("a quit of a guest that is off")?;
    is_gone(client, spec.id).await?;
    instance.end().await
}

async fn failed_launch(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let spec = bench.spec(client).await?;
    let bus = bench.capabilities().hot_plug[0];
    let mut missing = bench.disk(client, bus).await?;
    missing.path = bench.images_dir().join("no-such-image");
    let mut disks = spec.disks.clone();
    disks.push(missing);
    let odd = MachineSpec { disks, ..spec.clone() };
    let any = &[ErrorCode::NotFound, ErrorCode::Failed, ErrorCode::Invalid, ErrorCode::Conflict];
    for _ in 0..2 {
        fails(client.launch(odd.clone()).await, "a launch with a disk that is not there", any)?;
        is_gone(client, spec.id).await?;
    }
    if let Boot::Kernel { .. } | Boot::Firmware { .. } = spec.boot {
        let kernel = bench.images_dir().join("no-such-kernel");
        let boot = Boot::Kernel { kernel, initrd: None, cmdline: String::new() };
        // A backend that boots no kernel may take what it does not look at.
        if client.launch(MachineSpec { boot, ..spec.clone() }).await.is_err() {
            is_gone(client, spec.id).await?;
        } else {
            end_all(client, &[spec.id]).await?;
        }
    }
    client.launch(spec.clone()).await.works("launching it as it should be")?;
    end_all(client, &[spec.id]).await?;
    instance.end().await
}
