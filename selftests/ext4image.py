# SPDX-License-Identifier: GPL-2.0
"""Read and patch an ext4 image by bytes, with its checksums recomputed.

Only what the tests need to break an image on purpose; knows the format from
Documentation/filesystems/ext4 in the kernel and shares nothing with the module.
"""

import os
import struct

_table = []
for _i in range(256):
    for _ in range(8):
        _i = (_i >> 1) ^ (0x82F63B78 if _i & 1 else 0)
    _table.append(_i)


def crc32c(crc, data):
    for byte in data:
        crc = (crc >> 8) ^ _table[(crc ^ byte) & 0xFF]
    return crc


def crc16(crc, data):
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
    return crc


# name: (offset in the structure, struct format)
SUPER = {
    "inodes_count": (0x00, "I"), "blocks_count_lo": (0x04, "I"),
    "first_data_block": (0x14, "I"), "log_block_size": (0x18, "I"),
    "log_cluster_size": (0x1C, "I"), "blocks_per_group": (0x20, "I"),
    "clusters_per_group": (0x24, "I"), "inodes_per_group": (0x28, "I"),
    "magic": (0x38, "H"), "state": (0x3A, "H"), "rev_level": (0x4C, "I"),
    "first_ino": (0x54, "I"), "inode_size": (0x58, "H"),
    "feature_compat": (0x5C, "I"), "feature_incompat": (0x60, "I"),
    "feature_ro_compat": (0x64, "I"), "uuid": (0x68, "16s"),
    "volume_name": (0x78, "16s"), "reserved_gdt_blocks": (0xCE, "H"),
    "journal_inum": (0xE0, "I"), "last_orphan": (0xE8, "I"),
    "hash_seed": (0xEC, "16s"), "def_hash_version": (0xFC, "B"),
    "desc_size": (0xFE, "H"), "first_meta_bg": (0x104, "I"),
    "blocks_count_hi": (0x150, "I"), "min_extra_isize": (0x15C, "H"),
    "want_extra_isize": (0x15E, "H"), "flags": (0x160, "I"),
    "log_groups_per_flex": (0x174, "B"), "checksum_type": (0x175, "B"),
    "checksum_seed": (0x270, "I"), "orphan_file_inum": (0x280, "I"),
    "checksum": (0x3FC, "I"),
}
GROUP = {
    "block_bitmap": (0x00, "I"), "inode_bitmap": (0x04, "I"),
    "inode_table": (0x08, "I"), "flags": (0x12, "H"),
    "itable_unused": (0x1C, "H"), "checksum": (0x1E, "H"),
    "block_bitmap_hi": (0x20, "I"), "inode_bitmap_hi": (0x24, "I"),
    "inode_table_hi": (0x28, "I"),
}
INODE = {
    "mode": (0x00, "H"), "size_lo": (0x04, "I"), "links": (0x1A, "H"),
    "blocks_lo": (0x1C, "I"), "flags": (0x20, "I"), "block": (0x28, "60s"),
    "generation": (0x64, "I"), "file_acl": (0x68, "I"), "size_hi": (0x6C, "I"),
    "file_acl_hi": (0x76, "H"), "checksum_lo": (0x7C, "H"),
    "extra_isize": (0x80, "H"), "checksum_hi": (0x82, "H"),
}
# From the start of the node: the header, and entry 0
EXTENT = {
    "magic": (0, "H"), "entries": (2, "H"), "max": (4, "H"), "depth": (6, "H"),
    "logical": (12, "I"), "len": (16, "H"), "start_hi": (18, "H"), "start_lo": (20, "I"),
    "leaf_lo": (16, "I"), "leaf_hi": (20, "H"),
}

INCOMPAT_64BIT, INCOMPAT_CSUM_SEED, INCOMPAT_META_BG = 0x80, 0x2000, 0x10
RO_COMPAT_GDT_CSUM, RO_COMPAT_METADATA_CSUM = 0x10, 0x400
EXTENTS_FL, INDEX_FL, INLINE_DATA_FL = 0x80000, 0x1000, 0x10000000


class Image:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)
        self.block_size = 1024 << self.sb("log_block_size")
        self.csum = bool(self.sb("feature_ro_compat") & RO_COMPAT_METADATA_CSUM)
        self.desc_size = 32
        if self.sb("feature_incompat") & INCOMPAT_64BIT:
            self.desc_size = self.sb("desc_size")
        self.inode_size = self.sb("inode_size")
        self.inodes_per_group = self.sb("inodes_per_group")
        self.first_data_block = self.sb("first_data_block")
        self.uuid = self.sb("uuid")
        if self.sb("feature_incompat") & INCOMPAT_CSUM_SEED:
            self.seed = self.sb("checksum_seed")
        else:
            self.seed = crc32c(~0 & 0xFFFFFFFF, self.uuid)

    def close(self):
        os.close(self.fd)

    # Bytes

    def read(self, offset, size):
        return os.pread(self.fd, size, offset)

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def block(self, number):
        return bytearray(self.read(number * self.block_size, self.block_size))

    def put_block(self, number, data):
        self.write(number * self.block_size, bytes(data))

    def _field(self, base, table, name, value):
        offset, form = table[name]
        form = "<" + form
        if value is None:
            return struct.unpack(form, self.read(base + offset, struct.calcsize(form)))[0]
        self.write(base + offset, struct.pack(form, value))
        return value

    # The super block

    def sb(self, name, value=None):
        return self._field(1024, SUPER, name, value)

    def fix_sb(self):
        if self.csum:
            self.sb("checksum", crc32c(~0 & 0xFFFFFFFF, self.read(1024, 0x3FC)))

    # Group descriptors (without meta_bg)

    def group_offset(self, group):
        return (self.first_data_block + 1) * self.block_size + group * self.desc_size

    def group(self, group, name, value=None):
        return self._field(self.group_offset(group), GROUP, name, value)

    def fix_group(self, group):
        raw = bytearray(self.read(self.group_offset(group), self.desc_size))
        raw[0x1E:0x20] = b"\0\0"
        if self.csum:
            value = crc32c(crc32c(self.seed, struct.pack("<I", group)), raw) & 0xFFFF
        elif self.sb("feature_ro_compat") & RO_COMPAT_GDT_CSUM:
            value = crc16(crc16(0xFFFF, self.uuid), struct.pack("<I", group))
            value = crc16(value, bytes(raw[:0x1E]) + bytes(raw[0x20:]))
        else:
            return
        self.group(group, "checksum", value)

    # Inodes

    def inode_offset(self, ino):
        group, index = divmod(ino - 1, self.inodes_per_group)
        table = self.group(group, "inode_table")
        if self.desc_size >= 64:
            table |= self.group(group, "inode_table_hi") << 32
        return table * self.block_size + index * self.inode_size

    def inode(self, ino, name, value=None):
        return self._field(self.inode_offset(ino), INODE, name, value)

    def inode_seed(self, ino):
        return crc32c(self.seed, struct.pack("<II", ino, self.inode(ino, "generation")))

    def fix_inode(self, ino):
        if not self.csum:
            return
        raw = bytearray(self.read(self.inode_offset(ino), self.inode_size))
        raw[0x7C:0x7E] = b"\0\0"
        wide = self.inode_size > 128 and struct.unpack_from("<H", raw, 0x80)[0] >= 4
        if wide:
            raw[0x82:0x84] = b"\0\0"
        value = crc32c(self.inode_seed(ino), raw)
        self.inode(ino, "checksum_lo", value & 0xFFFF)
        if wide:
            self.inode(ino, "checksum_hi", value >> 16)

    # Extent nodes: the root is in the inode, the others are blocks

    def extent_root(self, ino, name, value=None, entry=0):
        offset, form = EXTENT[name]
        if offset >= 12:
            offset += 12 * entry
        return self._field(self.inode_offset(ino) + 0x28 + offset, {name: (0, form)},
                           name, value)

    def extent_block(self, number, name, value=None, entry=0):
        offset, form = EXTENT[name]
        if offset >= 12:
            offset += 12 * entry
        return self._field(number * self.block_size + offset, {name: (0, form)},
                           name, value)

    def fix_extent_block(self, ino, number):
        if not self.csum:
            return
        end = 12 + 12 * ((self.block_size - 12) // 12)
        node = self.block(number)
        struct.pack_into("<I", node, end, crc32c(self.inode_seed(ino), node[:end]))
        self.put_block(number, node)

    def first_child(self, ino):
        """The block that entry 0 of the root points to."""
        return self.extent_root(ino, "leaf_lo")

    def map(self, ino, logical):
        """The disk block of a logical block, in an extent tree; or None."""
        node = bytearray(self.inode(ino, "block"))
        while True:
            _, entries, _, depth = struct.unpack_from("<4H", node)
            found = None
            for i in range(entries):
                if struct.unpack_from("<I", node, 12 + 12 * i)[0] <= logical:
                    found = 12 + 12 * i
            if found is None:
                return None
            if depth == 0:
                start, length, hi, lo = struct.unpack_from("<IHHI", node, found)
                if logical >= start + (length if length <= 32768 else length - 32768):
                    return None
                return (hi << 32 | lo) + logical - start
            node = self.block(struct.unpack_from("<I", node, found + 4)[0])

    # Directories

    def fix_dir_block(self, ino, number):
        if not self.csum:
            return
        data = self.block(number)
        end = self.block_size - 12
        struct.pack_into("<I", data, end + 8, crc32c(self.inode_seed(ino), data[:end]))
        self.put_block(number, data)

    def fix_index_block(self, ino, number, count_offset):
        """A hash tree's node; the root's count is at 0x20, an inner one's at 8."""
        if not self.csum:
            return
        data = self.block(number)
        limit, count = struct.unpack_from("<HH", data, count_offset)
        tail = count_offset + limit * 8
        value = crc32c(self.inode_seed(ino), data[:count_offset + count * 8])
        value = crc32c(value, data[tail:tail + 4])
        value = crc32c(value, b"\0\0\0\0")
        struct.pack_into("<I", data, tail + 4, value)
        self.put_block(number, data)

    def dir_entries(self, number):
        """(offset, inode, rec_len, name) of a leaf block's entries."""
        data, at = self.block(number), 0
        while at + 8 <= self.block_size:
            ino, length, size = struct.unpack_from("<IHB", data, at)
            if length < 8:
                break
            yield at, ino, length, bytes(data[at + 8:at + 8 + size])
            at += length

    # Attribute blocks

    def fix_xattr_block(self, number):
        if not self.csum:
            return
        data = self.block(number)
        struct.pack_into("<I", data, 0x10, 0)
        value = crc32c(crc32c(self.seed, struct.pack("<Q", number)), data)
        struct.pack_into("<I", data, 0x10, value)
        self.put_block(number, data)
