//! A reader of the kernel's type information: members, enum values and the prototypes of tracepoints. Separate and small, because the loader's
//! library keeps its own parser's members private, and Rust programs carry no relocations that it could apply.
//!
//! Format: the kernel's `Documentation/bpf/btf.rst`. The bytes are only trusted as far as each read proves them to be there.

use std::collections::HashMap;

use crate::error::LayoutError;

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;
/// Steps through typedefs and qualifiers: more than any kernel nests.
const DEPTH_MAX: u32 = 32;
/// Members looked at for one name: ten times those of the kernel's largest structures. It bounds the depth of anonymous members too.
const MEMBERS_MAX: u32 = 4096;

/// Number of a type.
pub(crate) type TypeId = u32;

/// Where a member is and of which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// From the start of the structure it was looked up in, in bytes.
    pub(crate) offset: u32,
    /// Its type.
    pub(crate) of: TypeId,
}

/// A type's fixed part, and where its variable part begins.
#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    kind: u32,
    count: usize,
    has_bitfields: bool,
    /// Size in bytes, or the type it refers to.
    size_or_type: u32,
    tail: usize,
}

/// The parsed type information.
#[derive(Debug)]
pub(crate) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Type 0 is `void`.
    types: Vec<Type>,
    typedefs: HashMap<String, TypeId>,
}

impl Btf {
    /// Reads the list of types.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, LayoutError> {
        let damaged = |offset| LayoutError::Damaged { offset };
        let header = |offset| u32_at(&bytes, offset).map(|value| value as usize).ok_or(damaged(offset));
        let magic = bytes.first_chunk().map(|two| u16::from_ne_bytes(*two));
        if magic != Some(MAGIC) {
            return Err(damaged(0));
        }
        let header_bytes = header(4)?;
        let (types_start, types_bytes, strings_start) = (header(8)?, header(12)?, header(16)?);
        if header_bytes < HEADER_BYTES {
            return Err(damaged(4));
        }
        let mut offset = header_bytes.checked_add(types_start).ok_or(damaged(8))?;
        let end = offset.checked_add(types_bytes).filter(|&end| end <= bytes.len()).ok_or(damaged(12))?;
        let strings = header_bytes.checked_add(strings_start).ok_or(damaged(16))?;
        let void = Type { name: 0, kind: 0, count: 0, has_bitfields: false, size_or_type: 0, tail: 0 };
        let mut parsed = Self { types: vec![void], strings, typedefs: HashMap::new(), bytes };
        while offset < end {
            let (one, next) = parsed.type_at(offset).ok_or(damaged(offset))?;
            if one.kind == TYPEDEF {
                let id = u32::try_from(parsed.types.len()).map_err(|_| damaged(offset))?;
                parsed.typedefs.insert(parsed.string(one.name).to_string(), id);
            }
            parsed.types.push(one);
            offset = next;
        }
        Ok(parsed)
    }

    fn type_at(&self, offset: usize) -> Option<(Type, usize)> {
        let info = u32_at(&self.bytes, offset + 4)?;
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let tail_bytes = match kind {
            INT | VAR | DECL_TAG => 4,
            ARRAY => 12,
            STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
            ENUM | FUNC_PROTO => 8 * count,
            0 | 20.. => return None,
            _ => 0,
        };
        let (name, size_or_type) = (u32_at(&self.bytes, offset)?, u32_at(&self.bytes, offset + 8)?);
        let one = Type { name, kind, count, has_bitfields: info >> 31 == 1, size_or_type, tail: offset + 12 };
        Some((one, offset + 12 + tail_bytes))
    }

    fn string(&self, offset: u32) -> &str {
        let rest = self.strings.checked_add(offset as usize).and_then(|start| self.bytes.get(start..)).unwrap_or(&[]);
        let text = rest.split(|&byte| byte == 0).next().unwrap_or(&[]);
        std::str::from_utf8(text).unwrap_or("")
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: TypeId) -> Option<(TypeId, Type)> {
        for _ in 0..DEPTH_MAX {
            let one = *self.types.get(id as usize)?;
            match one.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = one.size_or_type,
                _ => return Some((id, one)),
            }
        }
        None
    }

    /// Types of a tracepoint's arguments, without the hidden first one; none if this kernel has no such tracepoint.
    pub(crate) fn tracepoint(&self, name: &str) -> Option<Vec<TypeId>> {
        let pointer = self.resolve(*self.typedefs.get(&format!("btf_trace_{name}"))?)?.1;
        let (_, prototype) = self.resolve(pointer.size_or_type)?;
        if pointer.kind != PTR || prototype.kind != FUNC_PROTO {
            return None;
        }
        (1..prototype.count).map(|index| u32_at(&self.bytes, prototype.tail + 8 * index + 4)).collect()
    }

    /// The structure a pointer points to.
    pub(crate) fn pointee(&self, pointer: TypeId) -> Option<TypeId> {
        let (_, pointer) = self.resolve(pointer)?;
        let (id, target) = self.resolve(pointer.size_or_type)?;
        (pointer.kind == PTR && target.kind == STRUCT).then_some(id)
    }

    /// Name of a type; empty if it has none.
    pub(crate) fn name(&self, id: TypeId) -> &str {
        self.types.get(id as usize).map_or("", |one| self.string(one.name))
    }

    /// A member of a structure, looked for in anonymous members too. Bit fields are no members that can be loaded.
    pub(crate) fn member(&self, structure: TypeId, name: &str) -> Option<Member> {
        self.member_below(structure, name, &mut { MEMBERS_MAX })
    }

    /// `budget` is what may still be looked at: damaged types may contain themselves.
    fn member_below(&self, structure: TypeId, name: &str, budget: &mut u32) -> Option<Member> {
        let (_, structure) = self.resolve(structure)?;
        if !matches!(structure.kind, STRUCT | UNION) {
            return None;
        }
        (0..structure.count).find_map(|index| {
            *budget = budget.checked_sub(1)?;
            let at = structure.tail + 12 * index;
            let (member_name, of, place) = (u32_at(&self.bytes, at)?, u32_at(&self.bytes, at + 4)?, u32_at(&self.bytes, at + 8)?);
            let (bits, is_bitfield) = if structure.has_bitfields { (place & 0x00ff_ffff, place >> 24 != 0) } else { (place, false) };
            match self.string(member_name) {
                "" => {
                    let inner = self.member_below(of, name, budget)?;
                    Some(Member { offset: inner.offset.checked_add(bits / 8)?, ..inner })
                }
                found => (found == name && !is_bitfield && bits % 8 == 0).then_some(Member { offset: bits / 8, of }),
            }
        })
    }

    /// Type of an array's elements and their size in bytes (structures and numbers; 8 for pointers).
    pub(crate) fn element(&self, array: TypeId) -> Option<(TypeId, u32)> {
        let (_, array) = self.resolve(array).filter(|(_, array)| array.kind == ARRAY)?;
        let (id, element) = self.resolve(u32_at(&self.bytes, array.tail)?)?;
        Some((id, if element.kind == PTR { 8 } else { element.size_or_type }))
    }

    /// The value of an enum's member, whichever enum has it.
    pub(crate) fn enum_value(&self, name: &str) -> Option<u32> {
        self.types.iter().filter(|one| one.kind == ENUM).find_map(|one| {
            let mut members = (0..one.count).map(|index| one.tail + 8 * index);
            let at = members.find(|&at| u32_at(&self.bytes, at).is_some_and(|member| self.string(member) == name))?;
            u32_at(&self.bytes, at + 4)
        })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running_kernel() -> Btf {
        Btf::parse(std::fs::read("/sys/kernel/btf/vmlinux").expect("a kernel with BTF")).expect("it is whole")
    }

    #[test]
    fn the_running_kernel_tells_prototypes_members_and_enums() {
        let btf = running_kernel();
        let arguments = btf.tracepoint("sched_process_fork").expect("every kernel has it");
        assert_eq!(arguments.len(), 2);
        let task = btf.pointee(arguments[0]).expect("a pointer to a structure");
        assert_eq!(btf.name(task), "task_struct");
        let comm = btf.member(task, "comm").expect("it has a name");
        assert_eq!(btf.element(comm.of).expect("an array").1, 1);
        let css_set = btf.pointee(btf.member(task, "cgroups").expect("it has cgroups").of).expect("a pointer");
        assert_eq!(btf.name(css_set), "css_set");
        assert!(btf.enum_value("memory_cgrp_id").is_some_and(|id| id < 32));
        assert_eq!(btf.member(task, "no_such_member"), None);
        assert_eq!(btf.tracepoint("no_such_tracepoint"), None);
    }

    #[test]
    fn members_of_anonymous_structures_are_found_with_their_full_offset() {
        let btf = running_kernel();
        let task = btf.pointee(btf.tracepoint("sched_process_fork").expect("it is there")[0]).expect("a structure");
        let mm = btf.pointee(btf.member(task, "mm").expect("it has memory").of).expect("a structure");
        // `mm_struct` consists of one anonymous structure, so a flat search would find nothing.
        let (total, stat) = (btf.member(mm, "total_vm").expect("a member"), btf.member(mm, "rss_stat").expect("a member"));
        assert!(total.offset > 0 && stat.offset > 0 && total.offset != stat.offset);
    }

    /// Header, one type and its strings.
    fn tiny(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let length = u32::try_from(types.len() * 4).expect("it is tiny");
        let mut bytes = vec![];
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, length, length, u32::try_from(strings.len()).expect("it is tiny")].iter().chain(types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_bit_field_is_not_taken_for_a_member() {
        // struct s { int a : 3; int b; }, with the flag that the upper byte of a place is the width of a bit field.
        let types = [1, INT << 24, 4, 32, 5, 1 << 31 | STRUCT << 24 | 2, 8, 7, 1, 3 << 24, 9, 1, 32];
        let btf = Btf::parse(tiny(&types, b"\0int\0s\0a\0b\0")).expect("it is whole");
        assert_eq!(btf.member(2, "a"), None);
        assert_eq!(btf.member(2, "b"), Some(Member { offset: 4, of: 1 }));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        assert_eq!(Btf::parse(vec![]).expect_err("nothing is there"), LayoutError::Damaged { offset: 0 });
        let types = [5, STRUCT << 24 | 2, 8, 7, 1, 0, 9, 1, 32];
        let whole = tiny(&types, b"\0int\0s\0a\0b\0");
        assert!(Btf::parse(whole.clone()).is_ok());
        for length in 0..whole.len() - 11 {
            assert!(Btf::parse(whole[..length].to_vec()).is_err(), "{length} bytes");
        }
        for (index, byte) in (0..whole.len()).flat_map(|index| [(index, 0xff), (index, 0x7f), (index, 0)]) {
            let mut damaged = whole.clone();
            damaged[index] = byte;
            if let Ok(btf) = Btf::parse(damaged) {
                let found = (0..3).filter_map(|id| btf.member(id, "a")).count();
                assert!(found <= 3, "the answer may be wrong, but it comes");
            }
        }
        // A typedef of itself must not be followed for ever.
        let looped = Btf::parse(tiny(&[5, TYPEDEF << 24, 1], b"\0int\0s\0")).expect("it is whole");
        assert_eq!((looped.member(1, "a"), looped.pointee(1)), (None, None));
    }
}
