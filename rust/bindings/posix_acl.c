// SPDX-License-Identifier: GPL-2.0
/*
 * Access control lists.
 */
#include <linux/fs.h>
#include <linux/posix_acl.h>
#include <linux/uidgid.h>

#include "helpers.h"

void upcall_acl_set(struct posix_acl *acl, unsigned int i, short tag, unsigned short perm, u32 id)
{
	struct posix_acl_entry *entry = &acl->a_entries[i];

	entry->e_tag = tag;
	entry->e_perm = perm;
	if (tag == ACL_USER)
		entry->e_uid = make_kuid(&init_user_ns, id);
	else if (tag == ACL_GROUP)
		entry->e_gid = make_kgid(&init_user_ns, id);
}

void upcall_acl_get(const struct posix_acl *acl, unsigned int i, struct upcall_acl_entry *to)
{
	const struct posix_acl_entry *entry = &acl->a_entries[i];

	to->tag = entry->e_tag;
	to->perm = entry->e_perm;
	to->id = 0;
	if (entry->e_tag == ACL_USER)
		to->id = from_kuid(&init_user_ns, entry->e_uid);
	else if (entry->e_tag == ACL_GROUP)
		to->id = from_kgid(&init_user_ns, entry->e_gid);
}

void upcall_drop_acl(struct posix_acl *acl)
{
	posix_acl_release(acl);
}
