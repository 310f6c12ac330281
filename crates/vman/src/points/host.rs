//! The points of effects. What an effect does is not known here.

use std::sync::Arc;

use async_trait::async_trait;
use vman_core::operation::Effect;
use vman_core::ports::{Applied, Apply, ApplyError, Target};

use super::{Fate, HELD, Points};

/// A host with a point before and after every effect.
pub(super) struct Host {
    pub(super) host: Arc<dyn Apply>,
    pub(super) points: Arc<Points>,
}

#[async_trait]
impl Apply for Host {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        self.pass("before", effect)?;
        if self.points.hold.as_deref() == Some(effect.word()) {
            tokio::time::sleep(HELD).await;
        }
        if self.points.twice {
            self.host.apply(effect, target).await?;
        }
        let applied = self.host.apply(effect, target).await;
        self.pass("after", effect)?;
        applied
    }
}

impl Host {
    fn pass(&self, when: &str, effect: Effect) -> Result<(), ApplyError> {
        match self.points.pass(&format!("{when} effect {}", effect.word())) {
            Fate::GoOn => Ok(()),
            Fate::Fail(why) => Err(ApplyError::failed(why)),
        }
    }
}
