//! Words of the vocabulary as text in documents: serde and schema for enums that know their CamelCase names. Separate because
//! `vocabulary` itself may know neither.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};
use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

/// An enum whose members have CamelCase names.
pub(crate) trait Word: Copy + 'static {
    /// What a member is called in an error.
    const KIND: &'static str;
    /// All members.
    fn all() -> &'static [Self];
    /// Name of a member.
    fn text(self) -> &'static str;
}

macro_rules! word {
    ($($name:ident: $kind:literal),+ $(,)?) => {$(
        impl $crate::words::Word for $name {
            const KIND: &'static str = $kind;
            fn all() -> &'static [Self] { &Self::ALL }
            fn text(self) -> &'static str { self.name() }
        }
    )+};
}
pub(crate) use word;

word!(Class: "class", Signal: "signal", DropReason: "reason of a drop", RefuseReason: "reason of a refusal", LossReason: "reason of a loss");

fn find<W: Word, E: Error>(name: &str) -> Result<W, E> {
    W::all().iter().copied().find(|word| word.text() == name).ok_or_else(|| {
        let known: Vec<_> = W::all().iter().map(|word| word.text()).collect();
        E::custom(format!("`{name}` is no {}: use one of {}", W::KIND, known.join(", ")))
    })
}

/// Writes a member as its name.
pub(crate) fn serialize<W: Word, S: Serializer>(word: &W, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(word.text())
}

/// Reads a member by its name; the error lists the names there are.
pub(crate) fn deserialize<'de, W: Word, D: Deserializer<'de>>(deserializer: D) -> Result<W, D::Error> {
    find(&String::deserialize(deserializer)?)
}

/// Schema of one member.
#[cfg_attr(not(feature = "kube"), expect(dead_code, reason = "only the Kubernetes kinds have a schema"))]
pub(crate) fn schema<W: Word>(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> = W::all().iter().map(|word| word.text()).collect();
    json_schema!({ "type": "string", "enum": names })
}

/// The same for a list of members.
pub(crate) mod list {
    use super::{Deserialize, Deserializer, Serializer, Word, find};

    /// Writes the members as their names.
    pub(crate) fn serialize<W: Word, S: Serializer>(words: &[W], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(words.iter().map(|word| word.text()))
    }

    /// Reads members by their names.
    pub(crate) fn deserialize<'de, W: Word, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<W>, D::Error> {
        Vec::<String>::deserialize(deserializer)?.iter().map(|name| find(name)).collect()
    }
}
