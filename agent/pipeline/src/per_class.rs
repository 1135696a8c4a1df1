//! An array with one cell per class that is indexed by the class itself: the one place where such an index is taken.

use core::ops::{Index, IndexMut};

use vocabulary::Class;

/// One `T` for each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerClass<T>(pub(crate) [T; Class::COUNT]);

impl<T> PerClass<T> {
    /// Each class with its cell, most important first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Class, &T)> {
        Class::ALL.into_iter().zip(&self.0)
    }
}

impl<T> Index<Class> for PerClass<T> {
    type Output = T;
    #[expect(clippy::indexing_slicing, reason = "the array has a cell for every class")]
    fn index(&self, class: Class) -> &T {
        &self.0[class.index()]
    }
}

impl<T> IndexMut<Class> for PerClass<T> {
    #[expect(clippy::indexing_slicing, reason = "the array has a cell for every class")]
    fn index_mut(&mut self, class: Class) -> &mut T {
        &mut self.0[class.index()]
    }
}
