//! The network of containers, in a network namespace of the test's own with a neighbour on a
//! cable, the world: what is left behind there can be seen to the last rule.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::common::{Container, Out, Store, kill, run, run_within, sh, store, until};

const HOST: &str = "198.51.100.1";
const WORLD: &str = "198.51.100.2";
const LOOP_LIMIT: Duration = Duration::from_secs(900);

/// A host's network and the world beside it.
struct World {
    host: Child,
    world: Child,
}

fn namespace() -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up; echo; exec sleep infinity"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // The line says that it is there.
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    child
}

impl World {
    fn new() -> Self {
        for tool in ["nft", "dnsmasq", "ip", "nsenter", "unshare"] {
            let there = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
                .iter()
                .any(|dir| std::path::Path::new(dir).join(tool).exists());
            assert!(there, "these tests need {tool}");
        }
        let world = Self { host: namespace(), world: namespace() };
        world.sh(&format!(
            "ip link add w0 type veth peer name w1 netns {}; ip addr add {HOST}/24 dev w0; \
             ip link set w0 up; sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; \
             echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables || true",
            world.world.id()
        ));
        world.world_sh(&format!("ip addr add {WORLD}/24 dev w1; ip link set w1 up"));
        world
    }

    fn enter(child: &Child, command: &Command) -> Command {
        let mut outer = Command::new("nsenter");
        outer.arg(format!("--net=/proc/{}/ns/net", child.id())).arg("--");
        outer.arg(command.get_program()).args(command.get_args()).env_remove("COLOC_ROOT");
        outer
    }

    /// A command in the host's network.
    fn run(&self, command: &Command) -> Out {
        run(Self::enter(&self.host, command))
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        self.run(command.args(["-c", script])).ok()
    }

    fn world_sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        run(Self::enter(&self.world, command.args(["-c", script]))).ok()
    }

    fn coloc(&self, store: &Store, args: &[&str]) -> Out {
        self.run(&store.command(args))
    }

    #[track_caller]
    fn ok(&self, store: &Store, args: &[&str]) -> String {
        self.coloc(store, args).ok()
    }

    #[track_caller]
    fn json(&self, store: &Store, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(store, args)).unwrap()
    }

    /// Runs `script` by the shell of a container.
    fn inside(&self, store: &Store, name: &str, script: &str) -> Out {
        self.coloc(store, &["exec", name, "--user", "root", "--", "busybox", "sh", "-c", script])
    }

    /// Makes and starts a room over busybox that serves its name on port 80.
    fn room(&self, store: &Store, name: &str) {
        self.ok(store, &["create", name, "--profile", "room"]);
        self.ok(store, &["start", name]);
        self.serve(store, name);
    }

    /// Has a room that was started serve it.
    fn serve(&self, store: &Store, name: &str) {
        let serve = format!(
            "busybox mkdir -p /tmp/w; echo {name} > /tmp/w/index.html; \
             busybox httpd -p 80 -h /tmp/w"
        );
        self.inside(store, name, &serve).ok();
    }

    /// What a web server says to a container; empty if nothing comes back.
    fn fetch(&self, store: &Store, from: &str, server: &str) -> String {
        let (address, port) = server.split_once(':').unwrap_or((server, "80"));
        let script = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {address} {port} 2>/dev/null"
        );
        let text = self.inside(store, from, &script).text();
        text.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_string()
    }

    /// The same from the host, or from the world.
    fn get(&self, child: &Child, address: &str) -> String {
        let path = format!("/proc/{}/ns/net", child.id());
        let namespace = std::fs::File::open(path).unwrap();
        let address = address.to_string();
        // A thread of its own: a network namespace is a thread's.
        let ask = move || -> std::io::Result<String> {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            let address = address.parse().unwrap();
            let limit = Duration::from_secs(3);
            let mut stream = std::net::TcpStream::connect_timeout(&address, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_string())
        };
        std::thread::spawn(ask).join().unwrap().unwrap_or_default()
    }

    /// Everything that a host's network consists of.
    fn everything(&self) -> String {
        self.sh("ip -o link | sed 's/@.*//'; ip -o -4 addr | sed 's/ *valid_lft.*//'; \
                 ip route; nft list ruleset; \
                 sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.host, &mut self.world] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// On a host with systemd, containers are units of its network and not of the test's.
fn elsewhere() -> bool {
    std::path::Path::new("/run/systemd/system").exists()
}

fn address(world: &World, store: &Store, name: &str) -> String {
    let status = world.json(store, &["status", name, "--json"]);
    status["addresses"][0].as_str().unwrap().to_string()
}

#[test]
fn published_ports_are_reached_from_everywhere_and_nothing_else_is() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-pub", 6));
    let before = world.everything();
    world.room(&store, "one");
    world.room(&store, "two");
    let one = address(&world, &store, "one");
    let says = world.ok(&store, &["publish", "one", "8080:80"]);
    assert!(says.contains("8080:80/tcp"), "{says}");

    assert_eq!(world.get(&world.host, "127.0.0.1:8080"), "one");
    assert_eq!(world.get(&world.host, &format!("{HOST}:8080")), "one");
    assert_eq!(world.get(&world.world, &format!("{HOST}:8080")), "one");
    assert_eq!(world.fetch(&store, "two", &format!("{HOST}:8080")), "one");
    assert_eq!(world.fetch(&store, "one", &format!("{HOST}:8080")), "one");
    // The host reaches a container's address, another container and the world do not.
    assert_eq!(world.get(&world.host, &format!("{one}:80")), "one");
    assert_eq!(world.fetch(&store, "two", &one), "");
    world.world_sh(&format!("ip route add default via {HOST}"));
    assert_eq!(world.get(&world.world, &format!("{one}:80")), "");
    assert_eq!(world.fetch(&store, "two", "127.0.0.1:8080"), "");

    // ::1 needs a host whose bridges do not pass the rules for IPv6; else it is refused at once.
    let six = "sysctl -qw net.bridge.bridge-nf-call-ip6tables";
    world.sh(&format!("{six}=0 || true"));
    world.ok(&store, &["network", "--reload"]);
    assert_eq!(world.get(&world.host, "[::1]:8080"), "one");
    if std::path::Path::new("/proc/sys/net/bridge").exists() {
        world.sh(&format!("{six}=1"));
        world.ok(&store, &["network", "--reload"]);
        assert_eq!(world.get(&world.host, "[::1]:8080"), "");
        assert_eq!(world.get(&world.host, "127.0.0.1:8080"), "one");
    }

    world.ok(&store, &["publish", "two", "9090:80", "--address", "127.0.0.1"]);
    assert_eq!(world.get(&world.host, "127.0.0.1:9090"), "two");
    assert_eq!(world.get(&world.world, &format!("{HOST}:9090")), "");
    let taken = world.coloc(&store, &["publish", "two", "8080:80"]).fails(4);
    assert!(taken.contains("one's"), "{taken}");
    let make = ["create", "three", "--profile", "room", "--set", "network.publish+=8080:80"];
    assert!(world.coloc(&store, &make).fails(4).contains("one's"));
    let list = world.json(&store, &["publish", "--list", "--json"]);
    assert_eq!(list[0]["publish"], "8080:80/tcp");
    assert_eq!((&list[1]["name"], &list[1]["active"]), (&"two".into(), &true.into()));

    world.ok(&store, &["unpublish", "one", "8080"]);
    assert_eq!(world.get(&world.host, "127.0.0.1:8080"), "");
    world.coloc(&store, &["unpublish", "one", "8080"]).fails(3);
    world.ok(&store, &["stop", "--all"]);
    assert_eq!(world.everything(), before);
}

#[test]
fn a_port_somebody_listens_on_is_not_taken() {
    let store = Store::mini("net-taken", 2);
    store.ok(&["create", "one", "--profile", "room"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = store.fails(4, &["publish", "one", &format!("{port}:80")]);
    assert!(said.contains("listens"), "{said}");
    store.ok(&["publish", "one", &format!("192.0.2.77:{port}:80")]);
    for bad in ["80", "0:80", "80:80/sctp", "x:80:80"] {
        store.fails(2, &["publish", "one", bad]);
    }
    store.ok(&["create", "host", "--profile", "room", "--network", "host"]);
    assert_ne!(store.run(&["publish", "host", "81:81"]).code, 0, "it has the host's ports");
}

#[test]
fn neighbours_reach_each_other_only_if_both_are_to() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-near", 6));
    world.room(&store, "one");
    world.room(&store, "two");
    let one = address(&world, &store, "one");
    world.ok(&store, &["set", "one", "network.neighbours=true"]);
    assert_eq!(world.fetch(&store, "two", &one), "");
    world.ok(&store, &["set", "two", "network.neighbours=true"]);
    // Its kernel has just given up looking for that address, and does so for some seconds.
    until("two reaches one", || world.fetch(&store, "two", &one) == "one");
    world.ok(&store, &["set", "one", "network.neighbours=false"]);
    assert_eq!(world.fetch(&store, "two", &one), "");
}

#[test]
fn nobody_speaks_with_an_address_of_somebody_else() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-spoof", 6));
    world.room(&store, "good");
    world.room(&store, "bad");
    let (good, bad) = (address(&world, &store, "good"), address(&world, &store, "bad"));
    let net = world.json(&store, &["network", "--json"]);
    let gateway = good.rsplit_once('.').unwrap().0.to_string() + ".1";
    let answers = |script: &str| {
        let script = format!("{script}; busybox ping -c1 -W1 {gateway} >/dev/null && echo answer");
        world.inside(&store, "bad", &script).text().contains("answer")
    };
    assert!(answers("true"));
    let mac = |n: usize| net["members"][n]["mac"].as_str().unwrap().to_string();
    assert_eq!(net["members"][0]["name"], "bad");
    assert!(!answers(&format!("busybox ip link set host0 address {}", mac(1))));
    assert!(answers(&format!("busybox ip link set host0 address {}", mac(0))));
    let change = |from: &str, to: &str| {
        format!("busybox ip addr del {from}/20 dev host0; busybox ip addr add {to}/20 dev host0")
    };
    assert!(!answers(&change(&bad, &good)));
    assert!(answers(&change(&good, &bad)));
    // Both still there: nothing that bad did has led good's packets elsewhere.
    assert_eq!(world.get(&world.host, &format!("{good}:80")), "good");
}

/// By root inside, with the addresses and the MAC that are its own.
#[test]
fn what_is_sent_to_where_nobody_may_send_arrives_nowhere() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-sneak", 6));
    world.room(&store, "good");
    world.room(&store, "bad");
    let (good, bad) = (address(&world, &store, "good"), address(&world, &store, "bad"));
    let gateway = good.rsplit_once('.').unwrap().0.to_string() + ".1";
    let mut command = Command::new("busybox");
    command.args(["httpd", "-f", "-p", "127.0.0.1:7777", "-h", "/proc/self"]);
    let mut private = World::enter(&world.host, &command).spawn().unwrap();
    // A published port has the bridge route the loopback's addresses.
    world.ok(&store, &["publish", "good", "127.0.0.1:9090:80"]);
    until("the host's own server", || !world.get(&world.host, "127.0.0.1:7777").is_empty());
    assert_eq!(world.get(&world.host, "127.0.0.1:9090"), "good");

    // The host's loopback, by the gateway.
    let detour = format!(
        "busybox ip route del local 127.0.0.0/8 dev lo table local; \
         busybox ip route del local 127.0.0.1 dev lo table local; busybox ip link set lo down; \
         busybox ip route add 127.0.0.1/32 via {gateway} dev host0 src {bad}; \
         busybox ip route get 127.0.0.1"
    );
    let route = world.inside(&store, "bad", &detour).text();
    assert!(route.contains("host0"), "the detour is none: {route}");
    for port in [7777, 9090] {
        assert_eq!(world.fetch(&store, "bad", &format!("127.0.0.1:{port}")), "");
    }

    assert_eq!(world.get(&world.host, &format!("{good}:80")), "good");
    private.kill().unwrap();
    private.wait().unwrap();
}

/// The host's kernel has one table of connections for all.
#[test]
fn nobody_fills_the_hosts_table_of_connections() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-flows", 6));
    world.room(&store, "good");
    world.room(&store, "bad");
    let good = address(&world, &store, "good");
    let gateway = good.rsplit_once('.').unwrap().0.to_string() + ".1";
    let source = r#"
#include <arpa/inet.h>
#include <sys/socket.h>
int main(int n, char **args) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = { .sin_family = AF_INET };
    inet_aton(args[1], &to.sin_addr);
    for (int port = 1; port < 40000; port++) {
        to.sin_port = htons(port);
        sendto(s, "x", 1, 0, (struct sockaddr *)&to, sizeof to);
    }
}
"#;
    let flood = store.state("containers/bad/private/root/flood");
    std::fs::write(flood.with_extension("c"), source).unwrap();
    let flood = flood.display();
    sh(&format!("cc -static -O1 -o {flood} {flood}.c && chmod 755 {flood}")).ok();
    world.inside(&store, "bad", &format!("/root/flood {gateway}"));
    let count = world.sh("cat /proc/sys/net/netfilter/nf_conntrack_count");
    let count: u32 = count.trim().parse().unwrap();
    assert!((10_000..17_000).contains(&count), "{count}");
    // It is its own connections that it is out of, and nobody else's.
    assert_eq!(world.fetch(&store, "bad", &format!("{gateway}:80")), "");
    world.ok(&store, &["publish", "good", "8080:80"]);
    assert_eq!(world.get(&world.world, &format!("{HOST}:8080")), "good");
}

#[test]
fn other_firewalls_that_drop_are_opened_and_closed_again() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-wall", 4));
    // As iptables-nft makes them for ufw and for Docker, and as the sample of nftables does.
    world.sh(
        "nft add table ip filter; nft add table ip6 filter
         nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'
         nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
         nft 'add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }'
         nft add chain ip filter DOCKER-USER
         nft add rule ip filter DOCKER-USER counter return
         nft insert rule ip filter FORWARD counter jump DOCKER-USER
         nft add table inet filter
         nft 'add chain inet filter input { type filter hook input priority 0; policy drop; }'
         nft 'add chain inet filter forward { type filter hook forward priority 0; policy drop; }'",
    );
    let before = world.everything();
    world.room(&store, "one");
    world.ok(&store, &["publish", "one", "8080:80"]);
    assert_eq!(world.get(&world.world, &format!("{HOST}:8080")), "one");
    let net = world.json(&store, &["network", "--json"]);
    let ask = format!("busybox nslookup one.{}", net["domain"].as_str().unwrap());
    assert!(world.inside(&store, "one", &ask).text().contains(&address(&world, &store, "one")));

    // Somebody starts the firewall again, and our rules are gone.
    let walls = "nft flush chain ip filter FORWARD; nft flush chain ip filter INPUT; \
                 nft flush chain ip filter DOCKER-USER; nft flush chain inet filter forward";
    world.sh(walls);
    assert_eq!(world.get(&world.world, &format!("{HOST}:8080")), "");
    let said = world.coloc(&store, &["check", "one"]);
    assert!(said.text().contains("ip filter FORWARD, inet filter forward"), "{}", said.text());
    world.ok(&store, &["network", "--reload"]);
    assert_eq!(world.get(&world.world, &format!("{HOST}:8080")), "one");
    world.sh("nft add rule ip filter DOCKER-USER counter return; \
              nft add rule ip filter FORWARD counter jump DOCKER-USER");
    world.ok(&store, &["stop", "one"]);
    let counters = |text: String| {
        let plain = text.lines().map(|l| l.split(" counter").next().unwrap().to_string());
        let mut lines: Vec<String> = plain.collect();
        lines.sort();
        lines
    };
    // Whoever has rules for what is passed on may need it.
    let before = before.replace("ip_forward = 0", "ip_forward = 1");
    let before = before.replace("forwarding = 0", "forwarding = 1");
    assert_eq!(counters(world.everything()), counters(before));
}

#[test]
fn names_are_known_while_a_container_runs() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-name", 4));
    world.room(&store, "one");
    world.room(&store, "two");
    let status = world.json(&store, &["status", "two", "--json"]);
    let (name, address) = (status["full_name"].as_str().unwrap(), address(&world, &store, "two"));
    let look = format!("busybox nslookup {name}");
    assert!(world.inside(&store, "one", &look).text().contains(&address));
    let hosts = || std::fs::read_to_string("/etc/hosts").unwrap();
    assert!(hosts().contains(&format!("{address}\t{name}\n")));
    world.ok(&store, &["stop", "two"]);
    until("dnsmasq has read it", || !world.inside(&store, "one", &look).text().contains(&address));
    assert!(!hosts().contains(name));
    world.ok(&store, &["stop", "one"]);
    assert!(!hosts().contains(status["full_name"].as_str().unwrap().split_once('.').unwrap().1));
}

/// Processes that end with the test.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The host's /etc is one of its own here, in which its resolvers can be others.
#[test]
fn names_of_the_world_follow_the_hosts_resolvers() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-ask", 2));
    // Two resolvers in the world, which know different things.
    let servers = ["198.51.100.3", "198.51.100.4"];
    let mut running = Running(Vec::new());
    for (n, server) in servers.iter().enumerate() {
        world.world_sh(&format!("ip addr add {server}/24 dev w1"));
        let mut serve = Command::new("dnsmasq");
        serve.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
        serve.args(["--bind-interfaces", "--pid-file", &format!("--listen-address={server}")]);
        serve.arg(format!("--address=/probe.example.org/192.0.2.{n}"));
        running.0.push(World::enter(&world.world, &serve).spawn().unwrap());
    }
    let mut etc = Command::new("unshare");
    etc.args(["-m", "sh", "-ec"]).arg(format!(
        "mkdir {0}/upper {0}/work; \
         mount -t overlay -o lowerdir=/etc,upperdir={0}/upper,workdir={0}/work overlay /etc; \
         rm -f /etc/resolv.conf; echo nameserver {1} > /etc/resolv.conf; echo; exec sleep infinity",
        store.root.display(),
        servers[0]
    ));
    let mut etc = World::enter(&world.host, &etc).stdout(Stdio::piped()).spawn().unwrap();
    etc.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let machine = etc.id();
    running.0.push(etc);
    let there = |command: &Command| {
        let mut inner = Command::new("nsenter");
        inner.arg(format!("--mount=/proc/{}/ns/mnt", machine)).arg("--");
        inner.arg(command.get_program()).args(command.get_args());
        world.run(&inner)
    };
    let sh = |script: &str| there(Command::new("sh").args(["-c", script])).ok();
    there(&store.command(&["create", "one", "--profile", "room"])).ok();
    there(&store.command(&["start", "one"])).ok();
    let asks = || world.inside(&store, "one", "busybox nslookup probe.example.org").text();
    until("the first resolver's answer", || asks().contains("192.0.2.0"));
    sh(&format!("echo nameserver {} > /etc/resolv.conf", servers[1]));
    until("the second one's", || asks().contains("192.0.2.1"));
    there(&store.command(&["stop", "one"])).ok();
    // On the host's network it is the host's file.
    let set = ["set", "one", "network=host"];
    there(&store.command(&set)).ok();
    there(&store.command(&["start", "one"])).ok();
    let file = world.inside(&store, "one", "cat /etc/resolv.conf").ok();
    assert_eq!(file, format!("nameserver {}\n", servers[1]));
    there(&store.command(&["stop", "one"])).ok();
}

#[test]
fn the_admins_ranges_and_names_are_used() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-own", 2));
    let file = store.root.join("etc/coloc/coloc.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["network"] = serde_json::json!({
        "bridge": "house0", "ipv4": "10.66.0.0/24", "ipv6": "fd66:1:2:3::/64", "domain": "house",
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let before = world.everything();
    world.room(&store, "one");
    let status = world.json(&store, &["status", "one", "--json"]);
    let addresses = status["addresses"].to_string();
    assert!(addresses.contains("\"10.66.0.") && addresses.contains("\"fd66:1:2:3:"), "{addresses}");
    assert_eq!(status["full_name"], "one.house");
    let found = world.inside(&store, "one", "busybox ip -o addr show dev host0").ok();
    assert!(found.contains(" 10.66.0.") && found.contains(" fd66:1:2:3:"), "{found}");
    assert!(world.sh("ip -o addr show dev house0").contains(" 10.66.0.1/24 "));
    world.ok(&store, &["stop", "one"]);
    assert_eq!(world.everything(), before);
    config["network"]["ipv4"] = "10.66.0.0/31".into();
    std::fs::write(&file, config.to_string()).unwrap();
    let said = world.coloc(&store, &["start", "one"]);
    assert!(said.code != 0 && said.stderr.contains("network.ipv4"), "{said:?}");
}

#[test]
fn two_stores_on_one_host_do_not_meet() {
    if elsewhere() {
        return;
    }
    let world = World::new();
    let (a, b) = (Store::mini("net-a", 2), Store::mini("net-b", 2));
    world.room(&a, "same");
    world.room(&b, "same");
    let (one, two) = (address(&world, &a, "same"), address(&world, &b, "same"));
    assert_ne!(one, two);
    assert_eq!(world.get(&world.host, &format!("{one}:80")), "same");
    assert_eq!(world.fetch(&a, "same", &two), "");
    // Nor do their ports, whether they are wanted now or at a start.
    world.ok(&a, &["publish", "same", "8080:80"]);
    world.ok(&a, &["publish", "same", "127.0.0.1:8081:80"]);
    let theirs = format!("leads to same of {}", a.root.display());
    for wanted in ["8080:80", "192.0.2.1:8080:80", "8081:80"] {
        let said = world.coloc(&b, &["publish", "same", wanted]).fails(4);
        assert!(said.contains(&theirs), "{said}");
    }
    world.ok(&b, &["publish", "same", "8080:80/udp"]);
    world.ok(&b, &["publish", "same", "192.0.2.1:8081:80"]);
    world.ok(&a, &["stop", "same"]);
    assert_eq!(world.get(&world.host, &format!("{two}:80")), "same");
    world.ok(&b, &["publish", "same", "8080:80"]);
    let before = world.everything();
    let said = world.coloc(&a, &["start", "same"]);
    assert_ne!(said.code, 0);
    let theirs = format!("leads to same of {}", b.root.display());
    assert!(said.stderr.contains(&theirs), "{}", said.stderr);
    assert_eq!(world.everything(), before);
    world.ok(&b, &["stop", "same"]);
    world.ok(&a, &["start", "same"]);
}

#[test]
fn a_range_that_another_network_has_is_not_taken() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-range", 2));
    world.room(&store, "one");
    let usual = address(&world, &store, "one");
    world.ok(&store, &["stop", "one"]);
    world.sh(&format!(
        "ip link add vpn0 type bridge; ip link set vpn0 up; ip addr add {usual}/20 dev vpn0"
    ));
    world.ok(&store, &["start", "one"]);
    let other = address(&world, &store, "one");
    assert_ne!(other, usual);
    world.serve(&store, "one");
    assert_eq!(world.get(&world.host, &format!("{other}:80")), "one");
    // It is kept, for somebody may have written it down.
    world.ok(&store, &["stop", "one"]);
    world.sh("ip link del vpn0");
    assert_eq!(address(&world, &store, "one"), other);
    world.ok(&store, &["start", "one"]);
    assert_eq!(address(&world, &store, "one"), other);
    // One that the admin gave is theirs to change.
    world.ok(&store, &["stop", "one"]);
    let config = store.root.join("etc/coloc/coloc.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["network"] = serde_json::json!({"ipv4": "198.51.100.0/24"});
    std::fs::write(&config, json.to_string()).unwrap();
    let said = world.coloc(&store, &["start", "one"]).fails(4);
    assert!(said.contains("198.51.100.0/24") && said.contains("w0"), "{said}");
}

#[test]
fn who_comes_or_goes_changes_elements_and_rules_are_loaded_when_somebody_else_changed_some() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-ruled", 3));
    // Each load makes the tables anew, with other numbers.
    let tables = || world.sh("nft -j list tables inet");
    let mentions = |device: &str| world.sh("nft list ruleset").contains(&format!("\"{device}\""));
    world.room(&store, "one");
    world.room(&store, "two");
    let device = world.sh("ip -o link | grep -o 'cl[0-9a-f]*-1' | sort -u").trim().to_string();
    let (first, two) = (tables(), address(&world, &store, "two"));
    // What is put in one by one is what a load of all would put there.
    let sets = || world.sh("nft list ruleset | tr -s ' ,\t' '\\n' | sort");
    let one_by_one = sets();
    world.ok(&store, &["stop", "two"]);
    let without = world.sh("nft list ruleset");
    assert!(!without.contains(&format!("\"{device}\"")) && !without.contains(&two), "{without}");
    world.ok(&store, &["start", "two"]);
    assert_eq!((tables(), sets()), (first.clone(), one_by_one.clone()));
    world.ok(&store, &["network", "--reload"]);
    assert_eq!(sets(), one_by_one);
    let first = tables();
    world.ok(&store, &["restart", "two"]);
    assert_eq!(tables(), first);
    world.serve(&store, "two");
    assert_eq!(world.get(&world.host, &format!("{two}:80")), "two");
    // Whatever others do may have been to ours.
    world.sh("nft add table ip others");
    world.ok(&store, &["restart", "two"]);
    let second = tables();
    assert_ne!(second, first);
    world.sh("nft flush ruleset");
    world.ok(&store, &["restart", "two"]);
    assert!(mentions(&device));
    // A port goes with its container.
    world.ok(&store, &["publish", "two", "8080:80"]);
    assert!(world.sh("nft list ruleset").contains("8080"));
    world.ok(&store, &["stop", "two"]);
    assert!(!world.sh("nft list ruleset").contains("8080"));
    world.ok(&store, &["start", "two"]);
    world.ok(&store, &["unpublish", "two", "8080"]);
    world.ok(&store, &["stop", "two"]);
    assert!(!mentions(&device) && mentions(&device.replace("-1", "-0")));
}

#[test]
fn a_bridge_of_the_admins_and_no_network_at_all() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-kind", 4));
    world.sh("ip link add br7 type bridge; ip addr add 192.0.2.1/24 dev br7; ip link set br7 up; \
         ip link add port7 type veth peer name port8; ip link set port7 master br7");
    world.ok(&store, &["create", "on", "--profile", "room", "--network", "bridge=br7"]);
    world.ok(&store, &["start", "on"]);
    assert!(world.inside(&store, "on", "busybox ip link").text().contains("host0"));
    assert!(world.sh("ip -o link show master br7").contains("cl"));
    // Its address is the admin's business; with one it is on that network, and with no other MAC.
    let own = "busybox ip addr add 192.0.2.2/24 dev host0";
    let ping = "busybox ping -c1 -W1 192.0.2.1 >/dev/null";
    world.inside(&store, "on", &format!("{own}; {ping}")).ok();
    let forged = "busybox ip link set host0 address 02:00:00:00:00:01";
    assert_ne!(world.inside(&store, "on", &format!("{forged}; {ping}")).code, 0);
    world.ok(&store, &["create", "off", "--profile", "room", "--network", "none"]);
    world.ok(&store, &["start", "off"]);
    let devices = world.inside(&store, "off", "busybox ip -o link").ok();
    assert_eq!(devices.lines().count(), 1, "{devices}");
    let before = (world.everything(), store.containers());
    for (code, network, why) in [
        (2, "bridge=w0", "w0 is no bridge"),
        (3, "bridge=nowhere", "no bridge nowhere"),
        (3, "macvlan=nowhere", "no device nowhere"),
        (2, "macvlan=lo", "lo is no Ethernet device"),
        (4, "macvlan=port7", "port7 is part of a bridge"),
        (2, "bridge=a/b", "no interface"),
        (2, "macvlan=sixteen-letters-", "no interface"),
    ] {
        let create = ["create", "odd", "--profile", "room", "--network", network];
        for args in [&create[..], &["set", "off", &format!("network={network}")]] {
            let said = world.coloc(&store, args).fails(code);
            assert!(said.contains(why) && said.contains("hint: "), "{args:?}: {said}");
        }
    }
    assert_eq!((world.everything(), store.containers()), before);
    // One that went away since.
    world.ok(&store, &["stop", "on"]);
    world.sh("ip link del br7");
    let said = world.coloc(&store, &["start", "on"]).fails(3);
    assert!(said.contains("no bridge br7"), "{said}");
    world.sh("ip link add br7 type bridge");
    world.ok(&store, &["stop", "--all"]);
    assert_eq!(world.sh("nft list ruleset"), "");
    assert_eq!(world.sh("ip -o link show master br7"), "");
}

#[test]
fn a_device_beside_the_hosts_is_on_the_cable_and_not_on_the_host() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-vlan", 4));
    let before = world.everything();
    world.ok(&store, &["create", "one", "--profile", "room", "--network", "macvlan=w0"]);
    world.ok(&store, &["start", "one"]);
    let own = "busybox ip addr add 198.51.100.7/24 dev host0";
    let ping = |to: &str| format!("busybox ping -c1 -W2 {to} >/dev/null");
    world.inside(&store, "one", &format!("{own}; {}", ping(WORLD))).ok();
    // The kernel's own rule for such devices: not to the host that they are on.
    assert_ne!(world.inside(&store, "one", &ping(HOST)).code, 0);
    let said = world.coloc(&store, &["publish", "one", "8080:80"]).fails(4);
    assert!(said.contains("network=private"), "{said}");
    assert!(world.coloc(&store, &["check", "one"]).text().contains("network"));
    world.ok(&store, &["restart", "one"]);
    world.inside(&store, "one", &format!("{own}; {}", ping(WORLD))).ok();
    world.ok(&store, &["stop", "one"]);
    assert_eq!(world.everything(), before);
}

#[test]
fn whatever_kills_a_start_or_a_stop_nothing_is_left() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-kill", 4));
    let before = world.everything();
    world.ok(&store, &["create", "one", "--profile", "room"]);
    let steps = ["admitted", "ruled", "settled", "connected"];
    for (verb, steps) in [("supervise", &steps[..]), ("stop", &["left", "ruled"])] {
        for step in steps {
            if verb == "stop" {
                world.ok(&store, &["start", "one"]);
            }
            let mut command = World::enter(&world.host, &store.command(&[verb, "one"]));
            run({
                command.env("COLOC_KILL_AT", format!("network.{step}"));
                command
            });
            // Any command that changes something cleans up.
            until("the container is gone", || {
                world.ok(&store, &["set", "one", "hold=false"]);
                world.json(&store, &["status", "one", "--json"])["state"] == "stopped"
            });
            world.ok(&store, &["stop", "one"]);
            assert_eq!(world.everything(), before, "{verb} {step}");
        }
    }
    world.ok(&store, &["start", "one"]);
    let status = world.json(&store, &["status", "one", "--json"]);
    kill(status["supervisor_pid"].as_i64().unwrap());
    kill(status["pid"].as_i64().unwrap());
    until("its device is gone", || !world.sh("ip -o link").contains(": cl"));
    world.ok(&store, &["set", "one", "hold=true"]);
    assert_eq!(world.everything(), before);
}

#[test]
fn two_hundred_containers_leave_nothing_behind() {
    if elsewhere() {
        return;
    }
    let (world, store) = (World::new(), Store::mini("net-many", 12));
    let before = world.everything();
    let names: Vec<String> = (0..10).map(|n| format!("c{n}")).collect();
    // By several admins at once; half of them are stopped first, half deleted as they run.
    let program = crate::common::coloc().display().to_string();
    let root = store.root.display().to_string();
    let script = format!(
        "coloc() {{ {program} --root {root} \"$@\" >/dev/null; }}
         one() {{ n=$1; coloc create c$n --profile room --set network.publish+=$((7000 + n)):80 || return
             coloc start c$n; [ $((n % 2)) = 0 ] || coloc stop --timeout 0 c$n
             coloc delete --force --yes c$n; }}
         for round in $(seq 20); do for n in $(seq 0 9); do one $n & done; wait; done"
    );
    let mut command = Command::new("sh");
    let all = World::enter(&world.host, command.args(["-c", &script]));
    let said = run_within(all, b"", LOOP_LIMIT);
    assert_eq!(said.stderr, "");
    assert_eq!(world.everything(), before);
    let left = store.root.join("run/coloc/network");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);
    assert_eq!(store.containers(), [""; 0]);
    // They were there, with their ports.
    let journal = std::fs::read_to_string(store.state("events.jsonl")).unwrap_or_default();
    let old = std::fs::read_to_string(store.state("events.old.jsonl")).unwrap_or_default();
    for name in names {
        let made = format!("\"{name}\"");
        assert!(journal.contains(&made) || old.contains(&made), "{name}");
    }
}

/// A web server of the host's that sends requests on to `place`.
struct Nginx(Child);

impl Nginx {
    fn start(store: &Store, place: &std::path::Path) -> Self {
        let (dir, at) = (store.root.join("nginx"), place.display());
        std::fs::create_dir(&dir).unwrap();
        let text = format!(
            "daemon off; user www-data; error_log {0}/error.log; pid {0}/pid; events {{}}
             http {{ access_log off; proxy_temp_path {0}/p; client_body_temp_path {0}/c;
               fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
               server {{ listen unix:{0}/front;
                 location / {{ proxy_pass http://unix:{at}/web:/; }}
                 location /link {{ proxy_pass http://unix:{at}/link:/; }}
                 location /files/ {{ alias {at}/; }} }} }}",
            dir.display()
        );
        std::fs::write(dir.join("conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(dir.join("conf")).arg("-e").arg(dir.join("error.log"));
        let server = command.spawn().expect("this test needs the package nginx-light");
        let started = Self(server);
        until("nginx listens", || dir.join("front").exists());
        started
    }

    /// The head of what it answers, and the rest.
    fn ask(store: &Store, path: &str) -> (String, String) {
        let front = store.root.join("nginx/front");
        let mut stream = std::os::unix::net::UnixStream::connect(front).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_string(), body.trim().to_string())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

#[test]
fn nginx_on_the_host_is_the_proxy_of_a_socket_inside() {
    let c = Container::started(store(), "web", &[]);
    let place = std::path::PathBuf::from(c.status()["sockets"].as_str().unwrap());
    c.root_sh(
        "cd /srv/coloc/sockets && ln -s /etc/passwd file && ln -s web link && ln -s . here
         echo plain > plain
         setpriv --reuid nobody --clear-groups perl -MIO::Socket::UNIX -e '
         $SIG{PIPE} = \"IGNORE\"; umask 0;
         my $s = IO::Socket::UNIX->new(Local => \"/srv/coloc/sockets/web\", Listen => 5) or die;
         exit if fork;
         while (my $c = $s->accept) { my ($path) = <$c> =~ / (.*) /;
             print $c \"HTTP/1.0 200 OK\\r\\n\\r\\n$path from inside\\n\"; close $c }
         ' </dev/null >/dev/null 2>&1",
    )
    .ok();
    until("it listens", || std::os::unix::net::UnixStream::connect(place.join("web")).is_ok());
    let nginx = Nginx::start(c.store, &place);
    let ok = |path: &str| Nginx::ask(c.store, path);
    assert_eq!(ok("/some/page").1, "/some/page from inside");
    let workers = sh(&format!("ps -o user= --ppid {}", nginx.0.id())).ok();
    assert!(workers.contains("www-data"), "{workers}");
    // What is planted there leads nowhere, for a proxy and for a server of files.
    assert!(ok("/link").0.contains("502"), "{:?}", ok("/link"));
    assert_eq!(ok("/files/plain").1, "plain");
    for planted in ["/files/file", "/files/here/plain"] {
        let (head, body) = ok(planted);
        assert!(head.contains("403") || head.contains("404") || head.contains("500"), "{head}");
        assert!(!body.contains("root:"), "{body}");
    }
    c.ok("stop", &[]);
    assert!(ok("/").0.contains("502"));
}

#[test]
fn sockets_are_seen_on_the_host_and_lead_nowhere() {
    let c = Container::started(store(), "sock", &[]);
    let place = std::path::PathBuf::from(c.status()["sockets"].as_str().unwrap());
    c.root_sh(
        "cd /srv/coloc/sockets && ln -s /etc/passwd link && cp /bin/true run && chmod 4755 run",
    )
    .ok();
    let refused = std::fs::read(place.join("link")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::ELOOP));
    assert!(Command::new(place.join("run")).status().is_err(), "nothing there is executed");
    // Nobody on the host puts anything into the private tree by it, not even root by mistake.
    for who in ["65534", "0"] {
        let plant = format!("setpriv --reuid {who} --clear-groups touch {}/x", place.display());
        assert_eq!(sh(&plant).code, 1);
        assert_eq!(c.root_sh("test -e /srv/coloc/sockets/x").code, 1);
    }
    // Any program inside may have one there, and a web server of the host's asks it.
    c.root_sh(
        "setpriv --reuid nobody --clear-groups perl -MIO::Socket::UNIX -e '
         $SIG{PIPE} = \"IGNORE\"; umask 0; my $s = IO::Socket::UNIX->new(Local => \"/srv/coloc/sockets/web\", Listen => 5)
         or die; exit if fork; while (my $c = $s->accept) { print $c \"hello\\n\"; close $c }
         ' </dev/null >/dev/null 2>&1",
    )
    .ok();
    let mut said = String::new();
    until("it listens", || std::os::unix::net::UnixStream::connect(place.join("web")).is_ok());
    let mut stream = std::os::unix::net::UnixStream::connect(place.join("web")).unwrap();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello\n");
    c.ok("stop", &[]);
    assert!(!place.exists());
    assert!(c.private("srv/coloc/sockets/link").symlink_metadata().is_ok(), "its own files stay");
}
