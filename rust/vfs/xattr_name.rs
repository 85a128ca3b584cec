// SPDX-License-Identifier: GPL-2.0

//! The names of extended attributes, and how they are set.

/// A prefix of attribute names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrNamespace {
    /// `user.`
    User,
    /// `trusted.`
    Trusted,
    /// `security.`
    Security,
    /// `gnu.`, of the Hurd.
    Gnu,
    /// The name `system.posix_acl_access`.
    AclAccess,
    /// The name `system.posix_acl_default`.
    AclDefault,
    /// `system.`, which is not shown.
    System,
}

impl XattrNamespace {
    /// What names begin with; the whole name, for access control lists. Empty for those that are not shown.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "user.",
            Self::Trusted => "trusted.",
            Self::Security => "security.",
            Self::Gnu => "gnu.",
            Self::AclAccess => "system.posix_acl_access",
            Self::AclDefault => "system.posix_acl_default",
            Self::System => "",
        }
    }

    /// The namespace of a whole name, and the name in it.
    pub fn of_name(name: &[u8]) -> Option<(Self, &[u8])> {
        let acl = [Self::AclAccess, Self::AclDefault]
            .into_iter()
            .find(|space| name == space.prefix().as_bytes());
        if let Some(space) = acl {
            return Some((space, b""));
        }
        [Self::User, Self::Trusted, Self::Security, Self::Gnu]
            .into_iter()
            .find_map(|space| {
                let name = name.strip_prefix(space.prefix().as_bytes())?;
                (!name.is_empty()).then_some((space, name))
            })
    }
}

/// Whether an attribute that is set has to be there, or must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XattrFlags {
    /// It must not be there (`EEXIST`).
    pub create: bool,
    /// It has to be there (`ENODATA`).
    pub replace: bool,
}
