use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;

/// Show the network that containers are on, and who is on it.
#[derive(Debug, clap::Args)]
pub(super) struct NetworkArgs {
    /// Put the rules, the bridge and the names there anew, after the host's firewall was restarted.
    #[arg(long, conflicts_with = "json")]
    pub(super) reload: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(engine: &Engine, args: &NetworkArgs) -> Result<ExitCode> {
    let house = engine.house()?;
    let (net, members) = (&house.net, house.all());
    if args.json {
        let range6 = net.ipv6.map(|(first, bits)| format!("{first}/{bits}"));
        return ui::json(&serde_json::json!({
            "bridge": net.bridge,
            "ipv4": format!("{}/{}", net.ipv4.0, net.ipv4.1),
            "ipv6": range6,
            "domain": net.domain,
            "members": members,
        }));
    }
    println!("bridge  {}", net.bridge);
    println!("ipv4    {}/{}", net.ipv4.0, net.ipv4.1);
    if let Some((first, bits)) = net.ipv6 {
        println!("ipv6    {first}/{bits}");
    }
    println!("domain  {}", net.domain);
    if members.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!();
    let mut table = ui::table(&["NAME", "DEVICE", "MAC", "ADDRESSES"]);
    for member in members {
        let addresses: Vec<String> = member.addresses().iter().map(ToString::to_string).collect();
        let device = if member.on_bridge() { member.device.clone() } else { "-".into() };
        table.add_row(vec![
            member.name.to_string(),
            device,
            member.mac.to_string(),
            addresses.join(" "),
        ]);
    }
    ui::print(table);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn reload(engine: &Engine) -> Result<ExitCode> {
    match engine.house()?.reload()? {
        0 => println!("no container is on the network"),
        n => println!("the network of {n} running containers is in place"),
    }
    Ok(ExitCode::SUCCESS)
}
