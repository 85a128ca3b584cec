set -e
modprobe null_blk nr_devices=0
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
d=/sys/kernel/config/nullb/slow; mkdir $d
for s in size=1200 blocksize=512 memory_backed=1 irqmode=2 completion_nsec=100000 hw_queue_depth=256 submit_queues=1; do echo ${s#*=} > $d/${s%=*}; done
echo 1 > $d/power; dev=/dev/slow
echo none > /sys/block/slow/queue/scheduler
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 $dev
mount -t ext4 $dev /mnt; dd if=/dev/zero of=/mnt/big bs=1M count=${MB:-1024} status=none; umount /mnt
cold() { umount /mnt 2>/dev/null || true; echo 3 > /proc/sys/vm/drop_caches; mount -t $1 -o ro,noatime $dev /mnt; }
for round in 1 2; do
for fs in ext4 aext4; do
cold $fs; a=$(date +%s%N); dd if=/mnt/big of=/dev/null bs=1M status=none; b=$(date +%s%N); echo $fs seq $(( (b-a)/1000 )) us
for direct in 0 1; do
cold $fs; fio --name=r --filename=/mnt/big --rw=randread --bs=4k --ioengine=io_uring --iodepth=32 --direct=$direct --io_size=32M --size=${MB:-1024}M --readonly --minimal --randseed=7 --norandommap=1 | awk -F';' -v n="$fs rand direct=$direct" '{print n, "iops", $8, "us/io", 1000000/$8}'
done
done
done
umount /mnt
