//! One macro that turns a list of words into an enum with its names and codes, so that no name is written twice.

/// Declares an enum whose members have a stable code, a CamelCase name for the API and a snake_case name for metrics.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $member:ident = $code:literal $snake:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $member = $code,)+ }

        impl $name {
            /// Every member, in the order of their codes.
            pub const ALL: [Self; [$($code),+].len()] = [$(Self::$member),+];
            /// How many members there are; codes run from 0 to `COUNT - 1`.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable number that disk and wire carry.
            #[must_use]
            pub const fn code(self) -> u8 { self as u8 }

            /// Position in an array of `COUNT` cells.
            #[must_use]
            pub const fn index(self) -> usize { self as usize }

            /// The member with this code, or none if a newer peer wrote it.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$member),)+ _ => None }
            }

            /// CamelCase: the name in the API, in status and in events.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$member => stringify!($member),)+ }
            }

            /// snake_case: the name as a metric's label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$member => $snake,)+ }
            }

            /// The member with this CamelCase name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|member| member.name() == name)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}

pub(crate) use words;
