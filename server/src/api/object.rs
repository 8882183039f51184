//! JSON objects by the names of their fields, and by nothing else.
//!
//! A derived decoder takes an array, too, as the fields in the order of their declaration. That
//! order is no part of what is documented: an array would mean something else after the next
//! change. So whatever comes from outside is decoded as an [`Object`].

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A `T` that was written as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ByName(PhantomData)).map(Self)
    }
}

struct ByName<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with named fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair<'a> {
        name: &'a str,
        count: Option<u32>,
    }

    #[test]
    fn fields_are_named() {
        let read = |text| serde_json::from_str::<Object<Pair<'_>>>(text);
        let want = Pair { name: "a", count: Some(1) };
        assert_eq!(read(r#"{"count":1,"name":"a"}"#).unwrap().0, want);
        assert!(read(r#"{"name":"a","color":1}"#).unwrap_err().to_string().contains("color"));
        let error = read(r#"["a",1]"#).unwrap_err().to_string();
        assert!(error.contains("named fields"), "{error}");
        // What it is for: the derived decoder alone takes it.
        assert!(serde_json::from_str::<Pair<'_>>(r#"["a",1]"#).is_ok());
    }
}
