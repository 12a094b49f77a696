//! What is wrong with a request, gathered until all of it is known: a client is told every bad field at once.
//!
//! Two degrees, as the contract has them: a part that can't be read or that nobody knows makes the whole
//! request malformed (400); one that is read and is not allowed makes it invalid (422). Used by everything
//! that reads a part of a request; nothing here reads one.

use std::borrow::Cow;

use super::problem::Problem;

/// Most faults that are told; a body of nothing but unknown fields must not make a bigger answer.
const TOLD_MAX: usize = 100;
/// Longest part of a name that came from outside, in characters.
const FIELD_CHARS_MAX: usize = 150;

/// One refused field or parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldError {
    /// Its name: `port`, `metadata.env`, `instances[3].service`.
    pub(super) field: String,
    /// What is wrong, and what would be right.
    pub(super) message: Cow<'static, str>,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    malformed: bool,
    errors: Vec<FieldError>,
}

impl Faults {
    /// A field that is missing, of the wrong type or out of its range.
    pub(super) fn invalid(
        &mut self,
        field: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) {
        self.push(field.into(), message.into());
    }

    /// A field or parameter that nobody knows, that came twice or that does not parse.
    pub(super) fn malformed(
        &mut self,
        field: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) {
        self.malformed = true;
        self.push(field.into(), message.into());
    }

    fn push(&mut self, mut field: String, message: Cow<'static, str>) {
        if self.errors.len() >= TOLD_MAX {
            return;
        }
        if let Some((cut, _)) = field.char_indices().nth(FIELD_CHARS_MAX) {
            field.truncate(cut);
            field.push('…');
        }
        self.errors.push(FieldError { field, message });
    }

    /// Nothing if all is well, else everything that is not.
    pub(super) fn check(self) -> Result<(), Problem> {
        match (self.errors.is_empty(), self.malformed) {
            (true, _) => Ok(()),
            (false, true) => Err(Problem::InvalidRequest { errors: self.errors }),
            (false, false) => Err(Problem::InvalidFields { errors: self.errors }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unreadable_part_makes_the_whole_malformed_and_all_are_told() {
        let mut faults = Faults::default();
        assert_eq!(Faults::default().check(), Ok(()));
        faults.invalid("port", "must be 1 to 65535, was 0");
        faults.malformed("prot", "is not known here");
        let Err(Problem::InvalidRequest { errors }) = faults.check() else {
            panic!("not malformed")
        };
        assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), ["port", "prot"]);
    }

    #[test]
    fn what_is_told_has_a_bound() {
        let mut faults = Faults::default();
        for _ in 0..1_000 {
            faults.malformed("é".repeat(10_000), "is not known here");
        }
        let Err(Problem::InvalidRequest { errors }) = faults.check() else {
            panic!("not malformed")
        };
        assert_eq!(
            (errors.len(), errors[0].field.chars().count()),
            (TOLD_MAX, FIELD_CHARS_MAX + 1)
        );
    }
}
