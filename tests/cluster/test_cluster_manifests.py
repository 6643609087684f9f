"""The manifests and images in cluster/ match their schemas and each other."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from manifest_fields import schema_errors

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RESTRICTED = {
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "requirements.lock").read_text(), re.M)
    assert found
    return found[1]


JOB = documents("kuberay/rayjob.yaml")[0]
CLUSTER_SPEC = documents("kuberay/raycluster.yaml")[0]["spec"]
HEAD = CLUSTER_SPEC["headGroupSpec"]
(WORKERS,) = CLUSTER_SPEC["workerGroupSpecs"]
VMS = documents("vms/gcp.yaml")[0]


def pods() -> dict[str, Any]:
    return {
        "head": HEAD["template"]["spec"],
        "worker": WORKERS["template"]["spec"],
        "submitter": JOB["spec"]["submitterPodTemplate"]["spec"],
    }


def containers() -> dict[str, Any]:
    return {name: container for name, pod in pods().items() for container in pod["containers"]}


@pytest.mark.parametrize("name", sorted(path.name for path in CLUSTER.glob("kuberay/*.yaml")))
def test_the_schema_has_every_field(name):
    found = documents(f"kuberay/{name}")
    assert found
    assert [error for manifest in found for error in schema_errors(manifest)] == []


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("spec", {"shutdownAfterJobFinish": True}),
        ("spec.rayClusterSpec", {"enableInTreeAutoScaling": True}),
        ("spec.rayClusterSpec", {"enableInTreeAutoscaling": "true"}),
        ("spec.rayClusterSpec.authOptions", {"secret": "laser-jnd-token"}),
        ("spec.rayClusterSpec.headGroupSpec", {"rayStartParams": {"num-cpus": 0}}),
        ("spec.rayClusterSpec.headGroupSpec.template.spec", {"toleration": []}),
        ("spec.rayClusterSpec.autoscalerOptions.securityContext", {"runAsNonroot": True}),
        ("spec.rayClusterSpec.autoscalerOptions.resources", {"limit": {"cpu": "1"}}),
        ("spec.submitterConfig", {"backoffLimit": True}),
    ],
)
def test_a_misspelled_field_or_a_wrong_type_is_an_error(path, change):
    manifest = json.loads(json.dumps(JOB))  # a deep copy without shared parts
    parent = manifest
    for name in path.split("."):
        parent = parent[name]
    parent.update(change)
    (error,) = schema_errors(manifest)
    assert error.startswith(f"RayJob.{path}.{next(iter(change))}")


def test_the_job_and_the_long_running_cluster_have_the_same_spec():
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER_SPEC


def test_a_job_releases_its_nodes_and_restarts_after_a_lost_head():
    spec = JOB["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["submissionMode"] == "K8sJobMode"


def test_the_job_requests_at_most_what_the_worker_group_has():
    requested = dict(re.findall(r"--([a-z-]+) (\S+)", JOB["spec"]["entrypoint"]))
    fewest, most = map(int, requested["workers"].split(":"))
    assert WORKERS["minReplicas"] <= fewest <= most <= WORKERS["maxReplicas"]
    limits = containers()["worker"]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == requested["gpus-per-worker"]
    assert int(limits["cpu"]) >= int(requested["cpus-per-worker"])


def test_all_files_name_the_locked_ray_version():
    version = locked("ray")
    assert ray.__version__ == version
    assert CLUSTER_SPEC["rayVersion"] == version
    images = {container["image"] for container in containers().values()}
    assert len(images) == 1
    assert images.pop().endswith(f":ray-{version}")
    assert VMS["docker"]["image"].endswith(f":ray-{version}-vms")
    assert f"assert ray.__version__ == '{version}'" in (CLUSTER / "training/Dockerfile").read_text()


def test_all_clusters_require_a_token():
    assert CLUSTER_SPEC["authOptions"] == {"mode": "token", "secretName": "laser-jnd-token"}
    secrets = {each["metadata"]["name"]: each for each in documents("kuberay/secrets.example.yaml")}
    assert set(secrets["laser-jnd-token"]["stringData"]) == {"auth_token"}
    # KubeRay does not override the variables of a container, so no container may set another mode.
    for container in containers().values():
        assert not any(each["name"].startswith("RAY_AUTH") for each in container.get("env", []))
    assert "--env RAY_AUTH_MODE=token" in VMS["docker"]["run_options"]
    assert VMS["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "training/Dockerfile").read_text()
    assert "export RAY_AUTH_MODE=token" in (CLUSTER / "on_premises/start.sh").read_text()
    texts = [path.read_text() for path in CLUSTER.rglob("*") if path.is_file()]
    assert not any(re.search(r"RAY_AUTH_MODE[=: ]+.?disabled", text) for text in texts)


def test_the_examples_have_all_named_secrets_without_values():
    text = json.dumps([JOB["spec"], CLUSTER_SPEC])
    named = set(re.findall(r'"(?:secretName|secretRef)": (?:\{"name": )?"([^"]+)"', text))
    examples = documents("kuberay/secrets.example.yaml")
    assert named == {each["metadata"]["name"] for each in examples}
    values = {value for each in examples for value in each["stringData"].values()}
    assert values == {"REPLACE-ME", "/secrets/google/key.json"}


def test_no_container_is_root_or_can_become_root():
    assert CLUSTER_SPEC["autoscalerOptions"]["securityContext"] == RESTRICTED
    assert {name: each["securityContext"] for name, each in containers().items()} == dict.fromkeys(
        containers(), RESTRICTED
    )
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods().values())
    assert "--user 1000" in VMS["docker"]["run_options"]


@pytest.mark.parametrize("name", ["head", "worker", "submitter", "autoscaler"])
def test_a_read_only_container_can_write_where_its_programs_do(name):
    options = CLUSTER_SPEC["autoscalerOptions"]
    mounts = (options if name == "autoscaler" else containers()[name])["volumeMounts"]
    volumes = {
        each["name"]: each for each in pods()["head" if name == "autoscaler" else name]["volumes"]
    }
    home = re.search(r"^ENV HOME=(\S+)$", (CLUSTER / "training/Dockerfile").read_text(), re.M)
    assert home
    # Ray's sessions are below /tmp; our cache and Keras' settings are in the home folder.
    for path in ("/tmp", home[1]):
        (mount,) = (each for each in mounts if each["mountPath"] == path)
        assert not mount.get("readOnly")
        assert volumes[mount["name"]]["emptyDir"] == {}


def test_only_the_autoscaler_has_a_token_for_the_kubernetes_api():
    from ray.autoscaler._private.kuberay import node_provider

    assert [pod["automountServiceAccountToken"] for pod in pods().values()] == [False] * 3
    (volume,) = (each for each in pods()["head"]["volumes"] if "projected" in each)
    files = {
        item["path"]
        for source in volume["projected"]["sources"]
        for projection in source.values()
        for item in projection.get("items", [projection])
    }
    (mount,) = (
        each
        for each in CLUSTER_SPEC["autoscalerOptions"]["volumeMounts"]
        if each["name"] == volume["name"]
    )
    # Where Ray's autoscaler reads it.
    read = {node_provider.IN_CLUSTER_TOKEN_PATH, node_provider.IN_CLUSTER_CA_CERT_PATH}
    assert read <= {f"{mount['mountPath']}/{name}" for name in files}
    assert files == {"token", "ca.crt", "namespace"}
    for container in containers().values():
        assert not any(each["name"] == volume["name"] for each in container["volumeMounts"])


def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a label selector without expressions selects a pod."""
    assert selector.keys() == {"matchLabels"}
    return selector["matchLabels"].items() <= labels.items()


def test_the_network_policy_lets_in_the_pods_themselves_and_the_operator():
    (policy,) = documents("kuberay/networkpolicy.yaml")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    templates = [
        HEAD["template"], WORKERS["template"], JOB["spec"]["submitterPodTemplate"]
    ]  # fmt: skip
    own = [template["metadata"]["labels"] for template in templates]
    # As set by the Helm chart of KubeRay 1.6.
    operator = {
        "app.kubernetes.io/name": "kuberay-operator",
        "app.kubernetes.io/instance": "kuberay-operator",
        "app.kubernetes.io/component": "kuberay-operator",
    }
    assert all(selected(spec["podSelector"], labels) for labels in own)
    peers, from_operator = spec["ingress"]
    assert all(each.keys() <= {"from", "ports"} for each in spec["ingress"])
    (source,) = peers["from"]
    assert source.keys() == {"podSelector"}  # and no namespace: this one only
    assert all(selected(source["podSelector"], labels) for labels in own)
    assert not selected(source["podSelector"], operator)
    (source,) = from_operator["from"]
    assert source.keys() == {"podSelector"}
    assert selected(source["podSelector"], operator)
    dashboard = next(p for p in containers()["head"]["ports"] if p["name"] == "dashboard")
    assert from_operator["ports"] == [{"port": dashboard["containerPort"], "protocol": "TCP"}]
    stranger = {"app.kubernetes.io/name": "stranger"}
    selectors = [source["podSelector"] for rule in spec["ingress"] for source in rule["from"]]
    assert not any(selected(each, stranger) for each in selectors)


def test_vms_have_the_scopes_they_need_and_firewall_rules():
    nodes = {name: each["node_config"] for name, each in VMS["available_node_types"].items()}
    prefix = "https://www.googleapis.com/auth/"
    scopes = {
        name: {
            scope.removeprefix(prefix)
            for each in node["serviceAccounts"]
            for scope in each["scopes"]
        }
        for name, node in nodes.items()
    }
    assert scopes == {
        "head": {"devstorage.read_write", "compute"},
        "gpu": {"devstorage.read_write"},
    }
    page = (ROOT / "docs/how-to/train-on-gce-vms.md").read_text()
    rules = re.findall(r"gcloud compute firewall-rules create \S+ --priority (\d+) \\\n(.*)", page)
    (allow, inside), (deny, others) = sorted((int(p), text) for p, text in rules)
    for node in nodes.values():
        (tag,) = node["tags"]["items"]
        assert f"--source-tags {tag} --target-tags {tag} --allow tcp,udp" in inside
        assert f"--target-tags {tag} --action DENY" in others
    # Google's own rule that lets the network in has 65534; the lowest number wins.
    assert allow < deny < 65534
    assert "tcp:1-21,tcp:23-65535,udp" in others


@pytest.mark.parametrize("target", ["training", "vms"])
def test_no_stage_of_the_training_image_ends_as_root(target):
    text = (CLUSTER / "training/Dockerfile").read_text()
    stage = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM |\Z)", text, re.M | re.S)
    assert stage
    assert re.findall(r"^USER (\S+)$", stage[1], re.M)[-1] == "1000"


def test_the_training_image_asks_nvidias_runtime_for_the_driver():
    text = (CLUSTER / "training/Dockerfile").read_text().partition("AS training")[2]
    set_here = [each for line in re.findall(r"^ENV (.+)$", text, re.M) for each in line.split()]
    variables = dict(each.split("=", 1) for each in set_here)
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    # `compute` has CUDA, and `utility` nvidia-smi.
    assert {*variables["NVIDIA_DRIVER_CAPABILITIES"].split(",")} >= {"compute", "utility"}


def test_requests_are_limits_and_only_workers_have_gpus():
    resources = {name: each["resources"] for name, each in containers().items()}
    resources["autoscaler"] = CLUSTER_SPEC["autoscalerOptions"]["resources"]
    for name, each in resources.items():
        assert each["requests"] == each["limits"], name
        assert ("nvidia.com/gpu" in each["limits"]) == (name == "worker")
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert VMS["available_node_types"]["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("name", ["head", "worker"])
def test_a_node_has_shared_memory_and_runs_ray_stop_before_it_exits(name):
    pod, container = pods()[name], containers()[name]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {name for name in volumes if "projected" not in volumes[name]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "ray stop"


def test_workers_run_on_spot_nodes():
    pod = pods()["worker"]
    ((key, value),) = pod["nodeSelector"].items()
    assert {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    machine = VMS["available_node_types"]["gpu"]["node_config"]
    assert machine["scheduling"]["provisioningModel"] == "SPOT"


def test_the_launcher_file_matches_rays_schema():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(VMS, schema)
    assert VMS["head_node_type"] in VMS["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VMS, "head_node": "head"}, schema)


def test_both_images_have_the_same_project_and_lock():
    texts = [(CLUSTER / name / "Dockerfile").read_text() for name in ("dataflow", "training")]
    pythons, copies = [], []
    for text in texts:
        pythons.append(set(re.findall(r"^FROM (python:\S+)", text, re.M)))
        copies.append(re.findall(r"^COPY (?!--).*$", text, re.M))
        installs = re.findall(r"pip install .*", text)
        assert installs
        assert all(re.search(r"--constraint \S*requirements\.lock", each) for each in installs)
    assert pythons[0] == pythons[1] == {"python:3.11-slim"}
    assert copies[0] == copies[1] != []
    assert '".[gpu,cluster]"' in texts[1]
    ignored = [
        (CLUSTER / n / "Dockerfile.dockerignore").read_text() for n in ("dataflow", "training")
    ]
    assert ignored[0] == ignored[1]


def test_the_image_to_predict_installs_the_small_lock_and_no_dependency_more():
    text = (CLUSTER / "predict/Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["python:3.11-slim"]
    installs = re.findall(r"pip install ([^\\&\n]+)", text)
    assert [each.split()[1:] for each in installs] == [
        ["--requirement", "requirements-predict.lock"],
        ["--no-deps", "."],
    ]
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied)
    ignored = (CLUSTER / "predict/Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(copied) == sorted(line[1:] for line in ignored if line.startswith("!"))
    assert "laser_dist" in copied


@pytest.mark.parametrize("name", ["dataflow", "training", "predict"])
def test_the_modules_that_an_image_imports_exist(name):
    text = (CLUSTER / name / "Dockerfile").read_text()
    project = r"\b(?:laser_dist|beam_pipelines|tfds_builders)\.[\w.]*\w"
    modules = {each.replace(".", "/") for each in re.findall(project, text)}
    assert modules
    assert {each for each in modules if not (ROOT / f"{each}.py").exists()} == set()
