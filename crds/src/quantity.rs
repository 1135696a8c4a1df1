//! Kubernetes quantities: the one place where `512Mi`, `250m` or a bare number is read. Separate from the kinds because the
//! budget needs it without Kubernetes.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The grammar the API server checks a quantity's text against: no sign, at most 18 digits, one suffix.
pub const PATTERN: &str = r"^([0-9]{1,18}(\.[0-9]{0,9})?|\.[0-9]{1,9})(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]{1,2})?$";
/// Longest text of a quantity: 18 digits, a dot, 9 digits and a suffix.
const TEXT_BYTES_MAX: u32 = 32;

/// An amount as its author wrote it. Reading it as a number is a second step, because only the field knows the unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// A quantity that is none, or does not suit its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is `{text}`: {problem}")]
pub struct QuantityError {
    /// Path of the field.
    pub field: String,
    /// What stands there.
    pub text: String,
    /// What is wrong, and what to write.
    pub problem: QuantityProblem,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityProblem {
    /// Not of the grammar.
    #[error("not a quantity; write digits and a suffix, such as 512Mi, 2Gi, 1.5G, 250m or 2")]
    Grammar,
    /// More than 64 bits hold.
    #[error("too large; the largest amount is 9223372036854775807")]
    TooLarge,
}

/// How many units a suffix stands for; `m`, a thousandth of one, is written 0.
const SUFFIXES: [(&str, i128); 14] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("m", 0),
    ("", 1),
];

impl Quantity {
    /// As a whole number of units (bytes, replicas), fractions rounded up as Kubernetes does.
    ///
    /// # Errors
    /// When the text is no quantity or exceeds 63 bits; `field` is named in the error.
    pub fn units(&self, field: &str) -> Result<u64, QuantityError> {
        self.read(field, |thousandths| (thousandths + 999) / 1_000)
    }

    /// As thousandths of a unit (millicores).
    ///
    /// # Errors
    /// As for [`Quantity::units`].
    pub fn thousandths(&self, field: &str) -> Result<u64, QuantityError> {
        self.read(field, |thousandths| thousandths)
    }

    fn read(&self, field: &str, unit: impl Fn(i128) -> i128) -> Result<u64, QuantityError> {
        let number =
            parse_thousandths(&self.0).and_then(|thousandths| i64::try_from(unit(thousandths)).map_err(|_| QuantityProblem::TooLarge));
        let refuse = |problem| QuantityError { field: field.into(), text: self.0.clone(), problem };
        number.map(i64::unsigned_abs).map_err(refuse)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes with the largest binary suffix that leaves a whole number: `1.5Gi` is written `1536Mi`.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Self {
        let exact = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"].into_iter().zip([60, 50, 40, 30, 20, 10]);
        for (suffix, shift) in exact {
            if bytes != 0 && bytes.trailing_zeros() >= shift {
                return Self(format!("{}{suffix}", bytes >> shift));
            }
        }
        Self(bytes.to_string())
    }

    /// Millicores: whole cores without a suffix, else with `m`.
    #[must_use]
    pub fn of_millicores(millicores: u64) -> Self {
        if millicores.is_multiple_of(1_000) { Self((millicores / 1_000).to_string()) } else { Self(format!("{millicores}m")) }
    }
}

fn parse_thousandths(text: &str) -> Result<i128, QuantityProblem> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || fraction.contains('.') || whole.len() > 18 || fraction.len() > 9 {
        return Err(QuantityProblem::Grammar);
    }
    let digits: i128 = digits.parse().map_err(|_| QuantityProblem::Grammar)?;
    let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| QuantityProblem::Grammar)?);
    let factor = factor_in_thousandths(suffix)?;
    let product = digits.checked_mul(factor).ok_or(QuantityProblem::TooLarge)?;
    // Rounded up: a request is never granted less than was written.
    Ok(product.saturating_add(scale - 1) / scale)
}

fn factor_in_thousandths(suffix: &str) -> Result<i128, QuantityProblem> {
    if let Some(exponent) =
        suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    {
        let exponent: u32 = exponent.parse().map_err(|_| QuantityProblem::TooLarge)?;
        return 10_i128.checked_pow(exponent).and_then(|power| power.checked_mul(1_000)).ok_or(QuantityProblem::TooLarge);
    }
    let (_, factor) = SUFFIXES.into_iter().find(|(known, _)| *known == suffix).ok_or(QuantityProblem::Grammar)?;
    Ok(if factor == 0 { 1 } else { factor * 1_000 })
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

#[cfg(feature = "kube")]
impl From<&Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: &Quantity) -> Self {
        Self(quantity.0.clone())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl Visitor<'_> for TextOrNumber {
            type Value = Quantity;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a quantity such as 512Mi, 250m or 2")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.into()))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Quantity, E> {
                u64::try_from(number).map_or_else(|_| Err(E::custom("a quantity is not negative")), |number| self.visit_u64(number))
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }
        let quantity = deserializer.deserialize_any(TextOrNumber)?;
        if quantity.0.len() > TEXT_BYTES_MAX as usize {
            return Err(D::Error::custom(format!("a quantity has at most {TEXT_BYTES_MAX} characters")));
        }
        Ok(quantity)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "pattern": PATTERN, "maxLength": TEXT_BYTES_MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_of_kubernetes_is_read() {
        let bytes = |text: &str| Quantity::from(text).units("f");
        assert_eq!(bytes("512Mi"), Ok(512 << 20));
        assert_eq!(bytes("1.5Gi"), Ok(3 << 29));
        assert_eq!(bytes("2G"), Ok(2_000_000_000));
        assert_eq!(bytes("12e6"), Ok(12_000_000));
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(bytes("1500m"), Ok(2));
        assert_eq!(bytes("7Ei"), Ok(7 << 60));
        assert_eq!(Quantity::from("250m").thousandths("f"), Ok(250));
        assert_eq!(Quantity::from("0.5").thousandths("f"), Ok(500));
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_field_and_text() {
        for text in ["", "Mi", "-1", "1 Gi", "1.2.3", "1GB", "abc", ".", "1e", "1234567890123456789"] {
            let error = Quantity::from(text).units("buffer.disk.size").expect_err(text);
            assert_eq!(error.problem, QuantityProblem::Grammar, "{text}");
            assert!(error.to_string().starts_with(&format!("buffer.disk.size is `{text}`")), "{error}");
        }
        assert_eq!(Quantity::from("8Ei").units("f").expect_err("2^63").problem, QuantityProblem::TooLarge);
        assert_eq!(Quantity::from("1e99").units("f").expect_err("10^99").problem, QuantityProblem::TooLarge);
    }

    #[test]
    fn bytes_are_written_with_the_largest_exact_suffix() {
        assert_eq!(Quantity::of_bytes(3 << 29).as_str(), "1536Mi");
        assert_eq!(Quantity::of_bytes(1000).as_str(), "1000");
        assert_eq!(Quantity::of_bytes(0).as_str(), "0");
        assert_eq!(Quantity::of_millicores(500).as_str(), "500m");
        assert_eq!(Quantity::of_millicores(2000).as_str(), "2");
    }

    #[test]
    fn a_bare_number_is_a_quantity_too() {
        assert_eq!(serde_json::from_str::<Quantity>("2").expect("an integer"), Quantity::from("2"));
        assert_eq!(serde_json::from_str::<Quantity>("\"2Gi\"").expect("a string"), Quantity::from("2Gi"));
        assert!(serde_json::from_str::<Quantity>("-2").is_err());
    }
}
