//! The certificate authority of the fleet service and the certificates it signs. The authority lives in one Secret; a
//! certificate's key never leaves the memory of the leader it was made for.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// Years an authority is good for; a certificate is good for as long, because it ends with its process anyway.
const YEARS: i32 = 10;

/// The authority, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A certificate and its key, as PEM.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn generate(now: Timestamp) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = Self::params(now)?.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The name must be the same in every process: a verifier finds the issuer by it.
    fn params(now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "forebay fleet authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        bound(&mut params, now);
        Ok(params)
    }

    pub(crate) fn issue(&self, server_name: &str, now: Timestamp) -> Result<Leaf, rcgen::Error> {
        let issuer = Issuer::new(Self::params(now)?, KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![server_name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        bound(&mut params, now);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// From the first of last year, so that a clock that lags does not refuse it.
fn bound(params: &mut CertificateParams, now: Timestamp) {
    let year = i32::from(now.to_zoned(TimeZone::UTC).year());
    params.not_before = date_time_ymd(year - 1, 1, 1);
    params.not_after = date_time_ymd(year + YEARS, 1, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_trusts_the_authority_accepts_the_certificate_for_its_name_alone() {
        let now = Timestamp::now();
        let authority = Authority::generate(now).expect("made");
        // Another process of the same installation has only the PEM.
        let leaf = authority.clone().issue("forebay-fleet.forebay-system.svc", now).expect("signed");
        for (name, accepted) in [("forebay-fleet.forebay-system.svc", true), ("forebay-fleet.elsewhere.svc", false)] {
            let identity = tonic::transport::Identity::from_pem(&leaf.certificate, &leaf.key);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let router = tonic::transport::Server::builder().tls_config(tls).expect("valid").add_routes(tonic::service::Routes::default());
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = router.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
            let trust = tonic::transport::Certificate::from_pem(&authority.certificate);
            let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(trust).domain_name(name);
            let endpoint =
                tonic::transport::Endpoint::from_shared(format!("https://{address}")).expect("valid").tls_config(tls).expect("valid");
            let client = async {
                let connected = endpoint.connect().await.is_ok();
                drop(stop);
                connected
            };
            let (_, connected) = tokio::join!(server, client);
            assert_eq!(connected, accepted, "{name}");
        }
    }
}
