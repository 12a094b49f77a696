//! Reads the query of a request against the parameters of its operation. Nothing is ignored: what is not
//! known, comes twice or is no UTF-8 is named and refused.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::faults::Faults;
use super::spec::{Operation, Parameter, Shape};
use crate::domain::{InstanceId, Namespace, ServiceName};

/// The parameters of one request, decoded, in their order.
#[derive(Debug, Default)]
pub(super) struct Query<'a> {
    /// No value is one that was refused: nobody reads it, so that nobody finds a second fault with it.
    pairs: Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    known: &'static [Parameter],
}

impl<'a> Query<'a> {
    /// Decodes `raw`; what is wrong with it goes into `faults`.
    pub(super) fn read(raw: Option<&'a str>, operation: &Operation, faults: &mut Faults) -> Self {
        let mut query = Self { pairs: Vec::new(), known: operation.query };
        for part in raw.unwrap_or("").split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (decode(name), decode(value)) {
                (Some(name), Some(value)) => query.admit(name, value, faults),
                (Some(name), None) => faults.malformed(name, "is not UTF-8 once it is decoded"),
                (None, _) => faults.malformed(name, "is not UTF-8 once it is decoded"),
            }
        }
        query
    }

    fn admit(&mut self, name: Cow<'a, str>, value: Cow<'a, str>, faults: &mut Faults) {
        let Some(parameter) = find(self.known, &name) else {
            let names: Vec<&str> = self.known.iter().map(|parameter| parameter.name).collect();
            let message = match names.as_slice() {
                [] => "is not known here; this request takes no parameter".to_owned(),
                _ => format!("is not known here; known are {}", names.join(", ")),
            };
            return faults.malformed(name, message);
        };
        if !parameter.repeats && self.pairs.iter().any(|(known, _)| *known == name) {
            return faults.malformed(name, "may be given only once");
        }
        let value = check(&parameter.shape, &name, &value, faults).then_some(value);
        self.pairs.push((name, value));
    }

    /// The value of a parameter that comes at most once.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All pairs.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().filter_map(|(name, value)| Some((&**name, value.as_deref()?)))
    }

    /// The number of a parameter of shape [`Shape::Count`]; what was wrong with it has been said by then.
    pub(super) fn count(&self, name: &str) -> u64 {
        let default = find(self.known, name).map_or(0, |parameter| match parameter.shape {
            Shape::Count(_, _, default) => default,
            Shape::Text(_) | Shape::Word(_) => 0,
        });
        self.get(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// `namespace`, if there is one and it is a name.
    pub(super) fn namespace(&self, faults: &mut Faults) -> Option<Namespace> {
        self.name("namespace", Namespace::new, faults)
    }

    /// `service`, if there is one and it is a name.
    pub(super) fn service(&self, faults: &mut Faults) -> Option<ServiceName> {
        self.name("service", ServiceName::new, faults)
    }

    /// `instance`, if there is one and it is a name.
    pub(super) fn instance(&self, faults: &mut Faults) -> Option<InstanceId> {
        self.name("instance", InstanceId::new, faults)
    }

    fn name<T, E: std::fmt::Display>(
        &self,
        name: &str,
        make: impl Fn(&str) -> Result<T, E>,
        faults: &mut Faults,
    ) -> Option<T> {
        make(self.get(name)?).map_err(|error| faults.invalid(name, error.to_string())).ok()
    }
}

fn find(known: &'static [Parameter], name: &str) -> Option<&'static Parameter> {
    known.iter().find(|parameter| match parameter.name.strip_suffix('*') {
        Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
        None => parameter.name == name,
    })
}

/// Whether `value` is of this shape; if not, that is told.
fn check(shape: &Shape, name: &str, value: &str, faults: &mut Faults) -> bool {
    match shape {
        Shape::Text(max) => {
            let was = value.chars().count();
            if was <= *max {
                return true;
            }
            faults.invalid(name, format!("must be at most {max} characters, was {was}"));
        }
        Shape::Word(words) if words.contains(&value) => return true,
        Shape::Word(words) => {
            faults.malformed(name, format!("must be one of {}", words.join(", ")));
        }
        Shape::Count(min, max, _) => match value.parse::<u64>() {
            Ok(number) if (*min..=*max).contains(&number) => return true,
            Ok(number) => faults.invalid(name, format!("must be {min} to {max}, was {number}")),
            Err(_) => faults.malformed(name, format!("must be a whole number from {min} to {max}")),
        },
    }
    false
}

/// Decodes a name or a value as forms write them; none if that is no UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8().ok()?;
    Some(Cow::Owned(decoded.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::problem::Problem;
    use super::super::spec::{Method, NAMESPACE};
    use super::*;

    static OPERATION: Operation = Operation {
        method: Method::Get,
        id: "test",
        summary: "",
        query: &[
            NAMESPACE,
            Parameter::new("limit", "", Shape::Count(1, 10, 5)),
            Parameter::new("order", "", Shape::Word(&["asc", "desc"])),
            Parameter::new("tag", "", Shape::Text(4)).repeated(),
            Parameter::new("meta.*", "", Shape::Text(4)).repeated(),
        ],
        headers: &[],
        body: None,
        answers: &[],
    };

    fn read(raw: &str) -> Result<Query<'_>, Problem> {
        let mut faults = Faults::default();
        let query = Query::read(Some(raw), &OPERATION, &mut faults);
        query.namespace(&mut faults);
        faults.check().map(|()| query)
    }

    #[test]
    fn values_are_decoded_and_defaults_taken() {
        let query = read("tag=a%2Bb&tag=a+b&meta.env=%C3%A9&order=desc&").unwrap();
        let pairs: Vec<_> = query.pairs().collect();
        assert_eq!(pairs, [("tag", "a+b"), ("tag", "a b"), ("meta.env", "é"), ("order", "desc")]);
        assert_eq!((query.count("limit"), read("limit=7").unwrap().count("limit")), (5, 7));
    }

    #[test]
    fn every_fault_is_named() {
        let told = |raw: &str| match read(raw).unwrap_err() {
            Problem::InvalidRequest { errors } => (400, errors),
            Problem::InvalidFields { errors } => (422, errors),
            other => panic!("{raw}: {other:?}"),
        };
        let long = format!("namespace={}", "é".repeat(64));
        for (raw, status, fields) in [
            ("tagg=a&limit=0", 400, &["tagg", "limit"][..]),
            ("limit=1&limit=2", 400, &["limit"]),
            ("limit=-1", 400, &["limit"]),
            ("limit=11", 422, &["limit"]),
            ("order=up", 400, &["order"]),
            ("tag=%ff", 400, &["tag"]),
            ("%ff=1", 400, &["%ff"]),
            ("tag=abcde", 422, &["tag"]),
            ("namespace=a%2Fb", 422, &["namespace"]),
            (long.as_str(), 422, &["namespace"]),
            ("limit=0&limit=1", 400, &["limit", "limit"]),
            ("namespace", 422, &["namespace"]),
            ("meta.=x", 400, &["meta."]),
        ] {
            let (found, errors) = told(raw);
            let named: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!((found, named.as_slice()), (status, fields), "{raw}");
        }
    }
}
