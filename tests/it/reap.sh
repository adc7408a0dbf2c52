# reap.sh COLOC STORE…: stops and deletes all that is in these stores, and the stores.
# reap.sh COLOC --after PID: the same for all stores of a test run, once that has ended.
coloc=$1
shift
if [ "$1" = --after ]; then
    pid=$2
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    set -- /var/tmp/coloc-it-"$pid"-*
fi
reap() {
    store=$1
    [ -d "$store" ] || return
    if [ -e "$store/etc/coloc/coloc.json" ]; then
        "$coloc" --root "$store" stop --all --timeout 0
        "$coloc" --root "$store" delete --all --force --yes
    fi
    if [ -e "$store/claim" ]; then
        line=$(cat "$store/claim")
        sed -i "\\|^$line\$|d" /etc/subuid /etc/subgid
    fi
    if [ -e "$store/user" ]; then
        userdel -f -r "$(cat "$store/user")"
    fi
    # Of containers that could not be deleted.
    umount -l "$store/var/lib/coloc/containers" 2>/dev/null
    rm -rf --one-file-system "$store"
}
for outer; do
    # A test's small disk, with a store on it.
    reap "$outer/disk/store"
    umount -l "$outer/disk" 2>/dev/null
    reap "$outer"
done
