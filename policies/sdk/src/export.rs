//! From an author's [`Policy`] to the functions that a component exports. Not the generated glue
//! itself: that is in `bindings`.

use crate::alloc::string::{String, ToString};
use crate::alloc::vec::Vec;

use crate::config::Reader;
use crate::{ConfigProblem, Context, Decision, Issue, PolicyInfo};

/// One policy.
pub trait Policy {
    /// What its configuration holds once read.
    type Config;

    /// What the policy is and what it wants to be asked about.
    fn describe() -> PolicyInfo;

    /// Reads the configuration; every key has a default. What is wrong is noted by the reader, and
    /// a policy with a wrong configuration is never asked to decide.
    fn configure(reader: &mut Reader) -> Self::Config;

    /// Judges one issue.
    ///
    /// # Errors
    /// A failure of the policy itself, as a sentence for people. Not an answer: the host then
    /// applies the safe default of the issue's kind.
    fn decide(config: &Self::Config, issue: &Issue, context: &Context) -> Result<Decision, String>;
}

/// Everything wrong with a configuration text.
pub fn validate<P: Policy>(config: &str) -> Vec<ConfigProblem> {
    read::<P>(config).err().unwrap_or_default()
}

/// Reads the configuration, then judges.
///
/// # Errors
/// What [`Policy::decide`] says, or the first problem of the configuration.
pub fn decide<P: Policy>(
    config: &str,
    issue: &Issue,
    context: &Context,
) -> Result<Decision, String> {
    match read::<P>(config) {
        Ok(config) => P::decide(&config, issue, context),
        Err(problems) => Err(problems.first().map(ToString::to_string).unwrap_or_default()),
    }
}

fn read<P: Policy>(config: &str) -> Result<P::Config, Vec<ConfigProblem>> {
    let mut reader = Reader::new(config);
    let config = P::configure(&mut reader);
    let problems = reader.finish();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Exports a type that implements [`Policy`] as the component's policy. To be called once.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        #[doc(hidden)]
        struct ExportedPolicy;

        impl $crate::Guest for ExportedPolicy {
            fn describe() -> $crate::PolicyInfo {
                <$policy as $crate::Policy>::describe()
            }

            fn validate_config(
                config: $crate::alloc::string::String,
            ) -> $crate::alloc::vec::Vec<$crate::ConfigProblem> {
                $crate::validate::<$policy>(&config)
            }

            fn decide(
                config: $crate::alloc::string::String,
                issue: $crate::Issue,
                context: $crate::Context,
            ) -> Result<$crate::Decision, $crate::alloc::string::String> {
                $crate::decide::<$policy>(&config, &issue, &context)
            }
        }

        $crate::export_guest!(ExportedPolicy);
    };
}

/// Exports a type that implements the raw [`Guest`](crate::Guest): for a policy that reads its
/// configuration in a way of its own.
#[macro_export]
macro_rules! export_guest {
    ($guest:ident) => {
        // Natively there is no component to export from.
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the exported symbols of the generated glue")]
        const _: () = {
    $crate::bindings::export!($guest with_types_in $crate::bindings);
        };
    };
}
