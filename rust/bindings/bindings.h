/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C headers that the project uses and the `kernel` crate does not bind.
 */
#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/blkdev.h>
#include <linux/crc16.h>
#include <linux/crc32.h>
#include <linux/crc32c.h>
#include <linux/errno.h>
#include <linux/exportfs.h>
#include <linux/falloc.h>
#include <linux/ext4.h>
#include <linux/fiemap.h>
#include <linux/fileattr.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/huge_mm.h>
#include <linux/iomap.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/statfs.h>
#include <linux/workqueue.h>
#include <linux/xattr.h>

#include "helpers.h"
#include "trace.h"
#include "trace_aext4.h"

/* Macros with casts, which bindgen does not evaluate. */
const u32 RUST_CONST_HELPER_UPCALL_REQ_META = (__force u32)REQ_META;
const u32 RUST_CONST_HELPER_UPCALL_REQ_SYNC = (__force u32)REQ_SYNC;
const u32 RUST_CONST_HELPER_UPCALL_REQ_IDLE = (__force u32)REQ_IDLE;
const u32 RUST_CONST_HELPER_UPCALL_REQ_FUA = (__force u32)REQ_FUA;
const u32 RUST_CONST_HELPER_UPCALL_REQ_PREFLUSH = (__force u32)REQ_PREFLUSH;
const u32 RUST_CONST_HELPER_UPCALL_REQ_PRIO = (__force u32)REQ_PRIO;
const u32 RUST_CONST_HELPER_UPCALL_REQ_NOWAIT = (__force u32)REQ_NOWAIT;
const u32 RUST_CONST_HELPER_UPCALL_REQ_NOMERGE = (__force u32)REQ_NOMERGE;
const u8 RUST_CONST_HELPER_UPCALL_BLK_STS_AGAIN = (__force u8)BLK_STS_AGAIN;
const u8 RUST_CONST_HELPER_UPCALL_BLK_STS_NOTSUPP = (__force u8)BLK_STS_NOTSUPP;
const u32 RUST_CONST_HELPER_UPCALL_SB_RDONLY = SB_RDONLY;
const u32 RUST_CONST_HELPER_UPCALL_SB_SILENT = SB_SILENT;
const u32 RUST_CONST_HELPER_UPCALL_SB_KERNMOUNT = SB_KERNMOUNT;
const u32 RUST_CONST_HELPER_UPCALL_GFP_NOFS = (__force u32)GFP_NOFS;
const int RUST_CONST_HELPER_UPCALL_IOCB_DIRECT = IOCB_DIRECT;
const int RUST_CONST_HELPER_UPCALL_IOCB_NOWAIT = IOCB_NOWAIT;
const int RUST_CONST_HELPER_UPCALL_IOCB_APPEND = IOCB_APPEND;
const u32 RUST_CONST_HELPER_UPCALL_FOP_BUFFER_RASYNC = (__force u32)FOP_BUFFER_RASYNC;
const u32 RUST_CONST_HELPER_UPCALL_FOP_DONTCACHE = (__force u32)FOP_DONTCACHE;
const u32 RUST_CONST_HELPER_UPCALL_FOP_BUFFER_WASYNC = (__force u32)FOP_BUFFER_WASYNC;
const u32 RUST_CONST_HELPER_UPCALL_FOP_DIO_PARALLEL_WRITE = (__force u32)FOP_DIO_PARALLEL_WRITE;
const u32 RUST_CONST_HELPER_UPCALL_FS_IOC_GETVERSION = FS_IOC_GETVERSION;
const u32 RUST_CONST_HELPER_UPCALL_FS_IOC32_GETVERSION = FS_IOC32_GETVERSION;
const u32 RUST_CONST_HELPER_UPCALL_EXT4_IOC_GETFSUUID = EXT4_IOC_GETFSUUID;
const u32 RUST_CONST_HELPER_UPCALL_FS_IOC_GETFSLABEL = FS_IOC_GETFSLABEL;
const u32 RUST_CONST_HELPER_UPCALL_FS_IOC_SETFSLABEL = FS_IOC_SETFSLABEL;
const u32 RUST_CONST_HELPER_UPCALL_FITRIM = FITRIM;
const u32 RUST_CONST_HELPER_UPCALL_EXT4_IOC_SHUTDOWN = EXT4_IOC_SHUTDOWN;
const u32 RUST_CONST_HELPER_UPCALL_LOOKUP_FOLLOW = LOOKUP_FOLLOW;
const u32 RUST_CONST_HELPER_LOOKUP_REVAL = LOOKUP_REVAL;
const u32 RUST_CONST_HELPER_LOOKUP_RCU = LOOKUP_RCU;
const u32 RUST_CONST_HELPER_UPCALL_LOOKUP_DIRECTORY = LOOKUP_DIRECTORY;
