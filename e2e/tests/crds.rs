//! The accept and reject tables of the API, judged by a real API server: the definitions are installed, and every object is
//! offered to it in a dry run. The local evaluator judges the same tables in the tests of `crds`.

#[path = "../../crds/tests/table/mod.rs"]
#[expect(dead_code, reason = "here every case is judged, also those that only a server can judge")]
mod table;

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Error, ResourceExt};
use serde_json::Value;
use table::{Case, Model, TABLES, Table};

/// Who owns the definitions where the chart is not installed.
const MANAGER: &str = "forebay-crds-test";

#[tokio::test]
async fn the_api_server_judges_every_object_as_the_tables_say() -> Result<()> {
    ensure!(
        env::var_os("KUBECONFIG").is_some(),
        "KUBECONFIG is not set: run `cargo xtask test --only crds`, or point it at a cluster of your own"
    );
    let client = Client::try_default().await.context("KUBECONFIG names no cluster that can be used")?;
    install(&client).await?;
    let namespace = format!("forebay-crds-{}", std::process::id());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let metadata = ObjectMeta {
        name: Some(namespace.clone()),
        labels: Some(BTreeMap::from([("forebay.dev/test".into(), "crds".into())])),
        ..Default::default()
    };
    namespaces
        .create(&PostParams::default(), &Namespace { metadata, ..Default::default() })
        .await
        .context("creating the test's namespace")?;
    let verdict = judge_all(&client, &namespace).await;
    namespaces.delete(&namespace, &DeleteParams::background()).await.context("removing the test's namespace")?;
    let wrong = verdict?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn install(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, crd) in crds::v1alpha1::crds()? {
        let name = crd.name_any();
        // Forced: the chart may own the definition with the same content.
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&crd)).await.with_context(|| format!("installing {name}"))?;
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(Duration::from_secs(30), established).await.with_context(|| format!("{name} is not served after 30 s"))??;
    }
    Ok(())
}

async fn judge_all(client: &Client, namespace: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (file, text) in TABLES {
        let table = Table::read(text);
        let api = api(client, table.base, namespace);
        for case in &table.cases {
            let verdict = judge(&api, case, table.base, namespace).await.with_context(|| format!("{file}: {}", case.name))?;
            let as_said = match (&case.refused, &verdict) {
                (None, None) => true,
                (Some(fragment), Some(message)) => message.contains(fragment),
                _ => false,
            };
            if !as_said {
                wrong.push(format!("{file}: {}\n  expected {:?}\n  found    {verdict:?}", case.name, case.refused));
            }
        }
    }
    Ok(wrong)
}

fn api(client: &Client, model: Model, namespace: &str) -> Api<DynamicObject> {
    match model {
        Model::Class => Api::all_with(client.clone(), &ApiResource::erase::<crds::v1alpha1::TelemetryPipelineClass>(&())),
        _ => Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<crds::v1alpha1::TelemetryPipeline>(&())),
    }
}

/// None if the object is accepted, else the message.
async fn judge(api: &Api<DynamicObject>, case: &Case, model: Model, namespace: &str) -> Result<Option<String>> {
    let object = case.object(model, namespace);
    let Some(before) = case.before(model, namespace) else {
        return message(api.create(&dry_run(), &read(object)?).await);
    };
    let stored = api.create(&PostParams::default(), &read(before)?).await.context("creating what the object was before")?;
    let object = read(object)?;
    let patch = PatchParams { dry_run: true, ..PatchParams::default() };
    let replaced = api.patch(&stored.name_any(), &patch, &Patch::Merge(replacing(&stored, &object)?)).await;
    remove(api, &stored.name_any()).await?;
    message(replaced)
}

/// A merge patch that makes the stored specification the wanted one: what is not wanted is null.
fn replacing(stored: &DynamicObject, wanted: &DynamicObject) -> Result<Value> {
    fn difference(old: &Value, new: &Value) -> Value {
        let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
        let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
        let kept = new.iter().map(|(name, value)| (name.clone(), difference(old.get(name).unwrap_or(&Value::Null), value)));
        Value::Object(gone.chain(kept).collect())
    }
    let (old, new) = (stored.data.get("spec").context("no spec is stored")?, wanted.data.get("spec").context("no spec is wanted")?);
    Ok(serde_json::json!({ "spec": difference(old, new) }))
}

async fn remove(api: &Api<DynamicObject>, name: &str) -> Result<()> {
    api.delete(name, &DeleteParams::foreground()).await?;
    let gone = async {
        while api.get_opt(name).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.with_context(|| format!("{name} is not gone after 30 s"))??;
    Ok(())
}

fn read(object: Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(object)?)
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn message(result: kube::Result<DynamicObject>) -> Result<Option<String>> {
    match result {
        Ok(_) => Ok(None),
        Err(Error::Api(status)) if status.code == 422 || status.code == 400 => Ok(Some(status.message)),
        Err(error) => bail!("the API server did not judge: {error}"),
    }
}
