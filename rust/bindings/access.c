// SPDX-License-Identifier: GPL-2.0
/*
 * For readers without a VFS inode: what credentials permit, what is in the page cache, and what
 * keeps a volume mounted.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/uidgid.h>

#include "helpers.h"

const struct cred *upcall_get_current_cred(void)
{
	return get_current_cred();
}

static bool upcall_entry_permits(const struct upcall_acl_entry *entry, unsigned int want)
{
	return (entry->perm & want) == want;
}

/* As posix_acl_permission(), for somebody who is not the owner. */
static bool upcall_acl_permits(u32 gid, const struct upcall_acl_entry *acl, unsigned int count,
			       unsigned int want)
{
	const struct upcall_acl_entry *entry, *end = acl + count, *mask;
	bool found = false;

	for (entry = acl; entry < end; entry++) {
		switch (entry->tag) {
		case ACL_USER:
			if (uid_eq(make_kuid(&init_user_ns, entry->id), current_fsuid()))
				goto masked;
			break;
		case ACL_GROUP_OBJ:
		case ACL_GROUP:
			if (!in_group_p(make_kgid(&init_user_ns, entry->tag == ACL_GROUP ? entry->id : gid)))
				break;
			found = true;
			if (upcall_entry_permits(entry, want))
				goto masked;
			break;
		case ACL_OTHER:
			return !found && upcall_entry_permits(entry, want);
		}
	}
	return false;
masked:
	for (mask = entry + 1; mask < end; mask++)
		if (mask->tag == ACL_MASK && !upcall_entry_permits(mask, want))
			return false;
	return upcall_entry_permits(entry, want);
}

/* As acl_permission_check() and what comes after it in generic_permission(). */
static bool upcall_may(u32 uid, u32 gid, u16 mode, const struct upcall_acl_entry *acl,
		       unsigned int count, unsigned int want)
{
	bool permitted;

	if (uid_eq(make_kuid(&init_user_ns, uid), current_fsuid()))
		permitted = (mode >> 6 & want) == want;
	else if (count && (mode & 0070))
		permitted = upcall_acl_permits(gid, acl, count, want);
	else if (in_group_p(make_kgid(&init_user_ns, gid)))
		permitted = (mode >> 3 & want) == want;
	else
		permitted = (mode & want) == want;
	if (permitted)
		return true;
	if ((S_ISDIR(mode) && !(want & MAY_WRITE)) || want == MAY_READ)
		if (capable(CAP_DAC_READ_SEARCH))
			return true;
	/* Nobody executes what is for nobody to execute. */
	if (S_ISDIR(mode) || !(want & MAY_EXEC) || (mode & 0111))
		return capable(CAP_DAC_OVERRIDE);
	return false;
}

/* Whether cred permits what is wanted, in the bits of MAY_READ and its like.  Does not sleep. */
bool upcall_permitted(const struct cred *cred, u32 uid, u32 gid, u16 mode,
		      const struct upcall_acl_entry *acl, unsigned int count, unsigned int want)
{
	const struct cred *old = override_creds(cred);
	bool permitted = upcall_may(uid, gid, mode, acl, count, want);

	revert_creds(old);
	return permitted;
}

bool upcall_cred_capable(const struct cred *cred, int cap)
{
	const struct cred *old = override_creds(cred);
	bool able = capable(cap);

	revert_creds(old);
	return able;
}

bool upcall_cred_in_group(const struct cred *cred, u32 gid)
{
	const struct cred *old = override_creds(cred);
	bool member = in_group_p(make_kgid(&init_user_ns, gid));

	revert_creds(old);
	return member;
}

void upcall_cred_owners(const struct cred *cred, u32 *uid, u32 *gid)
{
	*uid = from_kuid(&init_user_ns, cred->fsuid);
	*gid = from_kgid(&init_user_ns, cred->fsgid);
}

bool upcall_has_pages(const struct inode *inode)
{
	return READ_ONCE(inode->i_data.nrpages) != 0;
}

/*
 * Copies len bytes of a file from pos on, if they lie in one folio that is up to date.  Says whether
 * the cache has nothing of them, so that they are on the device.  The caller keeps the inode's memory.
 * Does not sleep.
 */
enum upcall_cached upcall_copy_cached(struct inode *inode, u64 pos, void *to, size_t len)
{
	struct address_space *mapping = &inode->i_data;
	enum upcall_cached found = UPCALL_CACHED_IN_PART;
	struct folio *folio;
	size_t offset;

	if (!upcall_has_pages(inode))
		return UPCALL_NOT_CACHED;
	folio = filemap_get_folio(mapping, pos >> PAGE_SHIFT);
	if (IS_ERR(folio))
		return UPCALL_NOT_CACHED;
	offset = offset_in_folio(folio, pos);
	/* Up to date as a whole, with the barrier that belongs to it. */
	if (folio_test_uptodate(folio) && len <= folio_size(folio) - offset) {
		memcpy_from_folio(to, folio, offset, len);
		found = UPCALL_COPIED;
	} else if (!folio_test_dirty(folio) && !folio_test_writeback(folio)) {
		/* What it has is what the device has, or will be read from there. */
		found = UPCALL_NOT_CACHED;
	}
	folio_put(folio);
	return found;
}

const struct path *upcall_file_path(const struct file *file)
{
	return &file->f_path;
}

struct dentry *upcall_dget(struct dentry *dentry)
{
	return dget(dentry);
}

bool upcall_may_use_reserve(u32 uid, u32 gid)
{
	kgid_t group = make_kgid(&init_user_ns, gid);

	return uid_eq(make_kuid(&init_user_ns, uid), current_fsuid()) ||
	       (!gid_eq(group, GLOBAL_ROOT_GID) && in_group_p(group)) ||
	       capable(CAP_SYS_RESOURCE);
}
