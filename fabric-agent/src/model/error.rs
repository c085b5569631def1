//! The one error of the model: a sentence for a person.

/// One sentence that says what is wrong with an object and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);

/// Shorthand of the constructors in this module.
macro_rules! refuse {
    ($($text:tt)*) => { return Err($crate::model::ModelError(format!($($text)*))) };
}
pub(crate) use refuse;
