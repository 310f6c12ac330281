//! A backend that misbehaves behind a faithful table: panics, hangs, fails to start.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{SOON, config};
use crate::abi::{ABI_MAJOR, ABI_MINOR};
use crate::host::slots::MAX_OPERATIONS;
use crate::host::{Dropped, Offer, Registry, Source};
use crate::{
    Backend, BackendConfig, BackendContext, BackendError, Capabilities, ErrorCode, Event,
    ImageInfo, ImageRef, ImageSpec, Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey,
};

/// Its settings name what it does wrong.
#[derive(Debug)]
struct Odd {
    context: BackendContext,
}

crate::export_backend!(Odd);

#[async_trait]
impl Backend for Odd {
    fn manifest() -> Manifest {
        Manifest {
            name: "odd".to_owned(),
            version: "0.0.0".to_owned(),
            description: String::new(),
            capabilities: Capabilities::default(),
            sdk: String::new(),
        }
    }

    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        assert!(config.settings["panic"] != true, "told to panic in create");
        match config.settings["fail"].as_str() {
            Some(reason) => Err(BackendError::new(ErrorCode::Conflict, reason)),
            None => Ok(Self { context }),
        }
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        panic!("told to panic in {}", "probe");
    }

    async fn launch(&self, _spec: MachineSpec) -> Result<Machine, BackendError> {
        std::future::pending().await
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        Err(BackendError::new(ErrorCode::NotFound, machine.id.to_string()))
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        let reason = "told to".to_owned();
        self.context.emit(Event::MachineEnded { id, reason });
        Ok(())
    }

    /// Never ends; tells when it is dropped.
    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        struct Told<'a>(&'a BackendContext, Uuid);
        impl Drop for Told<'_> {
            fn drop(&mut self) {
                let reason = "dropped".to_owned();
                self.0.emit(Event::MachineEnded { id: self.1, reason });
            }
        }
        let _told = Told(&self.context, id);
        std::future::pending().await
    }

    async fn kill(&self, _id: Uuid) -> Result<(), BackendError> {
        std::future::pending().await
    }

    async fn create_image(&self, _spec: ImageSpec) -> Result<(), BackendError> {
        Ok(())
    }

    async fn inspect_image(&self, _image: ImageRef) -> Result<ImageInfo, BackendError> {
        std::future::pending().await
    }

    async fn delete_image(&self, _image: ImageRef) -> Result<(), BackendError> {
        Ok(())
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        Ok(Survey::default())
    }
}

fn odd() -> Offer {
    Registry::linked().into_iter().find(|offer| offer.manifest().name == "odd").unwrap()
}

#[test]
fn a_linked_backend_is_registered_and_says_what_it_was_built_with() {
    let offer = odd();
    assert_eq!(offer.source(), &Source::Linked);
    assert_eq!(offer.manifest().sdk, env!("CARGO_PKG_VERSION"));
    assert_eq!(offer.abi(), (ABI_MAJOR, ABI_MINOR));
}

#[test]
fn a_create_that_fails_or_panics_is_an_error_of_its_own_words() {
    let failed = odd().start(config(json!({"fail": "it is taken"})));
    let taken = BackendError::new(ErrorCode::Conflict, "it is taken");
    assert_eq!(failed.unwrap_err(), taken);
    let panicked = odd().start(config(json!({"panic": true}))).unwrap_err();
    assert_eq!(panicked.code, ErrorCode::Panicked);
    assert!(panicked.message.contains("told to panic in create"), "{panicked}");
}

#[tokio::test]
async fn a_panic_ends_the_operation_and_poisons_the_instance_alone() {
    let (client, _events) = odd().start(config(json!({}))).unwrap();
    client.survey().await.unwrap();
    let panicked = client.probe().await.unwrap_err();
    assert_eq!(panicked.code, ErrorCode::Panicked);
    for part in ["odd", "`probe`", "told to panic in probe"] {
        assert!(panicked.message.contains(part), "{part} in {panicked}");
    }
    assert!(client.fault().is_some());
    assert_eq!(client.survey().await.unwrap_err().code, ErrorCode::Broken);

    let (next, _events) = odd().start(config(json!({}))).unwrap();
    assert!(next.fault().is_none());
    next.survey().await.unwrap();
}

#[tokio::test]
async fn an_unknown_operation_is_unsupported_by_name_and_unknown_fields_are_ignored() {
    let (client, _events) = odd().start(config(json!({}))).unwrap();
    let unknown = client.call::<_, Value>("fly", SOON, json!({})).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::Unsupported);
    assert!(unknown.message.contains("`fly`"), "{unknown}");

    let params = json!({"id": Uuid::nil(), "process": null, "of-tomorrow": [1]});
    let known = client.call::<_, Value>("reattach", SOON, params).await;
    assert_eq!(known.unwrap_err().code, ErrorCode::NotFound);

    let wrong = client.call::<_, Value>("kill", SOON, json!({"id": 7})).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::Invalid);
    assert!(wrong.message.contains("`kill`"), "{wrong}");
}

#[tokio::test]
async fn a_deadline_cancels_the_operation_and_the_instance_goes_on() {
    let (client, mut events) = odd().start(config(json!({}))).unwrap();
    let hurried = client.with_deadline(Duration::from_millis(20));
    let error = hurried.quit(Uuid::nil()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    assert!(error.message.contains("20ms"), "{error}");
    let reason = "dropped".to_owned();
    let id = Uuid::nil();
    assert_eq!(events.recv().await.unwrap(), Event::MachineEnded { id, reason });
    assert_eq!(client.dropped(), Dropped::default());
    client.survey().await.unwrap();
}

#[tokio::test]
async fn a_call_nobody_waits_for_any_longer_is_cancelled() {
    let (client, mut events) = odd().start(config(json!({}))).unwrap();
    let id = Uuid::from_u128(3);
    let call = tokio::time::timeout(Duration::from_millis(20), client.quit(id));
    call.await.unwrap_err();
    let event = tokio::time::timeout(SOON, events.recv()).await.unwrap();
    let reason = "dropped".to_owned();
    assert_eq!(event.unwrap(), Event::MachineEnded { id, reason });
}

#[tokio::test]
async fn dropping_the_last_client_ends_the_instance_and_closes_its_events() {
    let (client, mut events) = odd().start(config(json!({}))).unwrap();
    let clone = client.clone();
    drop(client);
    clone.power_button(Uuid::nil()).await.unwrap();
    assert!(events.recv().await.is_some());
    drop(clone);
    let end = tokio::time::timeout(SOON, events.recv()).await.unwrap();
    assert_eq!(end, None);
}

#[tokio::test]
async fn more_operations_than_slots_are_refused_by_name_and_not_kept_waiting() {
    let (client, _events) = odd().start(config(json!({}))).unwrap();
    let mut calls: Vec<_> =
        (0..MAX_OPERATIONS).map(|_| Box::pin(client.kill(Uuid::nil()))).collect();
    for call in &mut calls {
        let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    let error = client.survey().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("256 operations"), "{error}");
    drop(calls);
    let freed = tokio::time::timeout(SOON, async {
        while client.survey().await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    freed.await.unwrap();
}
