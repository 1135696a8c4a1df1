//! Signals and classes as text in the JSON that load generator, sink and agent serve; the vocabulary itself knows no serde.

/// A signal by its name.
pub mod signal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use vocabulary::Signal;

    /// Writes the CamelCase name.
    ///
    /// # Errors
    /// When the serializer fails.
    pub fn serialize<S: Serializer>(signal: &Signal, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(signal.name())
    }

    /// Reads the CamelCase name or the label.
    ///
    /// # Errors
    /// When the text is no signal.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signal, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is no signal")))
    }

    /// The signal with this name or label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.name() == text || signal.label() == text)
    }
}

/// A class by its name.
pub mod class {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use vocabulary::Class;

    /// Writes the CamelCase name.
    ///
    /// # Errors
    /// When the serializer fails.
    pub fn serialize<S: Serializer>(class: &Class, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(class.name())
    }

    /// Reads the CamelCase name or the label.
    ///
    /// # Errors
    /// When the text is no class.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is no class")))
    }

    /// The class with this name or label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == text || class.label() == text)
    }
}
