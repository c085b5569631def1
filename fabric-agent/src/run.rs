//! The agent's life: check everything, open everything, reconcile and serve until a signal, leave the datapath running.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use fabric_agent::{
    advertiser::Advertiser,
    api::{self, ApiState},
    config::{self, Config, StoreAddress},
    dataplane::{self, CapturedDrops, Dataplane, Events, Logger, Options, TcMode, UplinkMode},
    docker,
    kernel::{Netlink, inject::Injector, watch::Watch},
    manifests::Manifests,
    model::Guard,
    names::watch::Watcher,
    observe::{
        capture::Captures,
        events::{self, EventHub},
        log::RecentLog,
        names::Names,
        report::Reporter,
    },
    plan::desired::PlanSettings,
    probe, querier,
    reconcile::{Handle, KernelLinks, Reconciler, Settings},
    service::{Kernel, Service, ServiceSettings},
    store::{EmbeddedStore, EtcdStore, Fresh, Store},
};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::cleanup;

/// How often the kernel is compared with what should be there, if nothing happens and it does not take long.
const RESYNC: Duration = Duration::from_secs(1);
/// How long the first pass may take before requests are accepted nevertheless.
const START: Duration = Duration::from_secs(10);
/// Drop events that wait for a slow reader.
const EVENT_BACKLOG: usize = 4096;

/// Removes the socket's file at the end, whatever the end is.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, log: RecentLog) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    // Everything that can be refused is, before anything is made that would be left.
    dataplane::check_privileges()?;
    Netlink::new()?.uplinks(&config.underlay, &config.vteps).await?;
    if cleanup::in_use(&config.bpffs) {
        bail!(
            "{} is in use by another fabric agent: stop it, or give this one a --bpffs of its own",
            config.bpffs.display()
        );
    }
    let (store, fresh): (Arc<dyn Store>, _) = match &config.store {
        StoreAddress::Local(directory) => {
            let fresh = Fresh::before(directory);
            (Arc::new(EmbeddedStore::open(directory)?), Some(fresh))
        }
        StoreAddress::Etcd(access) => {
            (Arc::new(EtcdStore::open(access.clone(), Some(&config.node)).await?), None)
        }
    };
    let listener = api::bind(&config.socket, "--socket")?;
    let _socket = SocketFile(config.socket.clone());
    let plugin = match &config.docker_plugin {
        Some(path) => Some((api::bind(path, "--docker-plugin")?, SocketFile(path.clone()))),
        None => None,
    };
    let metrics = match config.metrics {
        Some(address) => Some(bind_metrics(address).await?),
        None => None,
    };
    let mut dataplane = Dataplane::open(&options(&config))?;
    if let Some(fresh) = fresh {
        fresh.keep();
    }
    if let Some(logger) = dataplane.take_logger() {
        tracing::warn!("the programs log every drop: this costs them time");
        tokio::spawn(log_programs(logger));
    }
    let counters = dataplane.counters()?;
    let flows = dataplane.flows()?;
    let groups = dataplane.groups()?;
    // It reads what an earlier agent advertised before the first pass changes that.
    let advertiser = Advertiser::new(dataplane.advertisements()?)?;
    let drops = dataplane.events()?;
    let tracer = dataplane.tracer()?;
    let (switch, dropped) = dataplane.captures()?;
    let names = dataplane.names()?;
    let injector = Injector::open()?;
    let inspector = dataplane.inspector()?;
    let features = dataplane.features(&[]);

    let (changed_tx, changed) = mpsc::channel(1);
    // Before the first look, so that nothing changes unseen between the two.
    let _watch = Watch::start(changed_tx)?;
    // The API stops first, so that requests that are being worked on still find a reconciler.
    let (stop, stopped) = watch::channel(false);
    let (halt, halted) = watch::channel(false);
    let links = KernelLinks::new(config.underlay.clone(), config.vteps.clone())?;
    let settings = settings(&config).await;
    let (reconciler, handle) = Reconciler::new(
        links,
        dataplane,
        Arc::clone(&store),
        (Some(counters.clone()), Some(flows.clone())),
        settings,
    )
    .await?;
    handle.set_groups(groups.clone());
    let service = Service::new(
        Arc::clone(&store),
        Arc::new(handle.clone()),
        ServiceSettings { node: config.node.clone(), slots: config.slots(), blocks: store.shared() },
    );
    let hub = EventHub::new(EVENT_BACKLOG);
    // Before the first pass, which would take away what nobody knows.
    let watcher = Watcher::new(names, flows.clone(), injector, handle.clone());
    tokio::spawn(watch_names(watcher));
    let mut reconciling = tokio::spawn(reconciler.run(changed, halted));
    tokio::spawn(pump(drops, hub.clone()));
    let captures = Captures::new(switch, hub.clone());
    let reporter = Reporter::new(inspector, hub.clone(), log);
    tokio::spawn(pump_captured(dropped, captures.clone()));
    tokio::spawn(name_events(Arc::clone(&store), service.clone(), hub.clone()));
    tokio::spawn(name_rules(handle.clone(), hub.clone()));
    tokio::spawn(querier::run(groups, handle.clone()));
    tokio::spawn(advertiser.run(handle.clone()));
    if let Some(port) = config.probe_port {
        tokio::spawn(probe::run(port, handle.clone()));
    }
    for feature in features.iter().filter(|feature| !feature.available) {
        tracing::info!("this kernel has no {}: {}", feature.name, feature.note);
    }

    let sources = tokio::spawn(follow_sources(config.manifests.clone(), service.clone(), handle.clone()));
    if service.shares_store() {
        tokio::spawn(service.clone().keep_registered());
        tokio::spawn(service.clone().keep_moving());
    }
    let state = ApiState::new(service.clone(), hub, Arc::new(counters))
        .with_tracer(Arc::new(tracer))
        .with_captures(Arc::new(captures))
        .with_flows(Arc::new(flows))
        .with_reports(Arc::new(reporter));
    let serve = async {
        first_pass(&handle).await;
        let docker = plugin.map(|(listener, file)| {
            let (service, stopped) = (service.clone(), stopped.clone());
            let socket = config.docker_socket.clone();
            (tokio::spawn(serve_docker(listener, service, socket, stopped)), file)
        });
        if let Some(listener) = metrics {
            tokio::spawn(serve_metrics(listener, state.clone(), stopped.clone()));
        }
        let serving = tokio::spawn(serve(listener, state, stopped));
        tracing::info!(node = config.node, socket = %config.socket.display(), "ready");
        (serving, docker)
    };
    let (mut serving, docker) = tokio::select! {
        started = serve => started,
        _ = terminate.recv() => return end(&halt, reconciling).await,
        _ = interrupt.recv() => return end(&halt, reconciling).await,
        ended = &mut reconciling => return Err(anyhow!("the reconciler ended unexpectedly: {ended:?}")),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut serving => {
            ended.context("the API's task failed")??;
            return Err(anyhow!("the API ended unexpectedly"));
        }
        ended = &mut reconciling => return Err(anyhow!("the reconciler ended unexpectedly: {ended:?}")),
    }
    tracing::info!("stopping; the datapath goes on without the agent");
    sources.abort();
    stop.send_replace(true);
    serving.await.context("the API's task failed")??;
    if let Some((task, _file)) = docker {
        task.await.context("the Docker plug-in's task failed")?;
    }
    end(&halt, reconciling).await
}

/// Lets the pass that is being made come to its end.
async fn end(halt: &watch::Sender<bool>, reconciling: JoinHandle<()>) -> anyhow::Result<()> {
    halt.send_replace(true);
    reconciling.await.context("the reconciler's task failed")
}

fn options(config: &Config) -> Options {
    let uplink_mode = match config.uplink_mode {
        config::UplinkMode::Auto => UplinkMode::Auto,
        config::UplinkMode::Tc => UplinkMode::Tc,
        config::UplinkMode::Xdp => UplinkMode::Xdp,
    };
    let sizes = config.maps.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
    Options {
        bpffs: config.bpffs.clone(),
        sizes,
        uplink_mode,
        debug: config.debug_dataplane,
        tc: TcMode::Auto,
    }
}

async fn settings(config: &Config) -> Settings {
    Settings {
        guard: guard(config).await,
        node: config.node.clone(),
        plan: PlanSettings {
            vxlan_port: config.vxlan_port,
            events_per_second: config.events_per_second,
            dscp: config.dscp,
            nat_ports: config.nat_ports,
        },
        resync: RESYNC,
        bpffs: config.bpffs.display().to_string(),
    }
}

/// What deny sets must not cover. A member of the store that has a name is looked up once: it was reached by it just now.
async fn guard(config: &Config) -> Guard {
    let mut guard = Guard::default();
    if let StoreAddress::Etcd(access) = &config.store {
        for member in &access.members {
            match tokio::net::lookup_host(member).await {
                Ok(found) => guard.store.extend(found.map(|address| address.ip())),
                Err(error) => tracing::warn!(
                    "the store's member {member} has no address, so deny sets may cover it: {error}"
                ),
            }
        }
    }
    guard
}

/// Reads the manifests once, after a first pass has told the facts; then everything is known and deletes may begin. Goes on to
/// follow the manifests.
async fn follow_sources(manifests: Option<PathBuf>, service: Service, handle: Handle) {
    let Some(directory) = manifests else { return handle.sources_ready() };
    handle.programmed(0).await;
    let mut manifests = Manifests::new(directory, service);
    manifests.scan().await;
    handle.sources_ready();
    manifests.run().await;
}

/// Waits for the pass that does the first deletes, so that nobody is told of a node that is not in sync yet; not for ever, since a
/// store may be away.
async fn first_pass(handle: &Handle) {
    if tokio::time::timeout(START, handle.complete()).await.is_err() {
        tracing::warn!(
            "the first pass has not ended within {} s; the API is served meanwhile",
            START.as_secs()
        );
    }
}

/// Serves Docker. A fault of its socket is Docker's alone: the agent goes on.
async fn serve_docker(
    listener: UnixListener,
    service: Service,
    socket: PathBuf,
    mut stopped: watch::Receiver<bool>,
) {
    let leftovers = tokio::spawn(docker::Leftovers::new(service.clone()).run());
    let containers = tokio::spawn(docker::Containers::new(service.clone(), socket).run());
    let shutdown = async move {
        // A sender that is gone means the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = docker::serve(listener, service, shutdown).await {
        tracing::error!("{error:#}");
    }
    leftovers.abort();
    containers.abort();
}

async fn bind_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("can't listen on --metrics {address}"))?;
    tracing::info!("metrics on http://{}/metrics", listener.local_addr().unwrap_or(address));
    Ok(listener)
}

/// Serves metrics. A fault of their socket is nobody else's: the agent goes on.
async fn serve_metrics(listener: TcpListener, state: ApiState, mut stopped: watch::Receiver<bool>) {
    let shutdown = async move {
        // A sender that is gone means the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = api::serve_metrics(listener, state, shutdown).await {
        tracing::error!("{error:#}");
    }
}

async fn serve(
    listener: UnixListener,
    state: ApiState,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let shutdown = async move {
        // A sender that is gone means the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    api::serve(listener, state, shutdown).await
}

async fn log_programs(logger: Logger) {
    if let Err(error) = logger.run().await {
        tracing::warn!("the programs' log can't be read any more: {error}");
    }
}

async fn pump(drops: Events, hub: EventHub) {
    let error = events::pump(drops, hub).await;
    tracing::warn!("drop events can't be read any more: {error}; counters stay exact");
}

async fn watch_names(watcher: Watcher) {
    let error = watcher.run().await;
    tracing::warn!(
        "DNS packets can't be read any more: {error}; policies learn no more addresses of domain names"
    );
}

async fn pump_captured(dropped: CapturedDrops, captures: Captures) {
    let error = captures.pump(dropped).await;
    tracing::warn!("dropped packets can't be captured any more: {error}");
}

/// Keeps the names by which events call policies' rules up to date.
async fn name_rules(handle: Handle, hub: EventHub) {
    loop {
        hub.set_rules(handle.rules());
        if !handle.passed().await {
            return;
        }
    }
}

/// Keeps the names by which events call networks and endpoints up to date.
async fn name_events(store: Arc<dyn Store>, service: Service, hub: EventHub) {
    let mut changed = store.watch();
    changed.mark_changed();
    while changed.changed().await.is_ok() {
        if let (Ok(networks), Ok(endpoints)) = (service.networks().await, service.endpoints().await) {
            hub.set_names(Names::new(&networks, &endpoints));
        }
    }
}
