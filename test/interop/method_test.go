package interop

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// evidence is one machine and how it proves that it is itself, to one server.
type evidence struct {
	agent    spiffeid.ID // what it will be called
	reattest bool        // renewal is by proving it again

	plugin       string // a stock agent's plugin block
	extra        string // and a line of its agent block
	experimental string // and of the experimental one

	by  spire.Attester // our client's
	key crypto.Signer  // the key of our agent SVID
}

// method makes a machine for a server.
type method struct {
	name  string
	ours  bool // SPIRE knows nothing of it
	prove func(t *testing.T, s *server, p *pki) evidence
}

var methods = []method{
	{name: "join_token", prove: byToken},
	{name: "x509pop ecdsa", prove: func(t *testing.T, s *server, p *pki) evidence { return byPoP(t, p, newKey(t)) }},
	{name: "x509pop rsa", prove: func(t *testing.T, s *server, p *pki) evidence { return byPoP(t, p, newRSA(t)) }},
	{name: "tpm_devid", prove: byDevID},
	{name: "bailiwick_tpm", ours: true, prove: byTPM},
}

func byToken(t *testing.T, s *server, _ *pki) evidence {
	t.Helper()
	token, agent := s.token(t)
	return evidence{
		agent: agent, plugin: `NodeAttestor "join_token" { plugin_data {} }`, extra: fmt.Sprintf("join_token = %q", token),
		by: spire.NewJoinToken(token), key: newKey(t),
	}
}

func byPoP(t *testing.T, p *pki, key crypto.Signer) evidence {
	t.Helper()
	dir := folder(t)
	der := p.pop.certify(t, "machine", key.Public())
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return evidence{
		agent: agentID("x509pop", fingerprint(der)), reattest: true,
		plugin: fmt.Sprintf(`NodeAttestor "x509pop" { plugin_data { private_key_path = %q certificate_path = %q } }`,
			writePEM(t, dir, "pop.key", "PRIVATE KEY", private), writePEM(t, dir, "pop.crt", "CERTIFICATE", der)),
		by: spire.X509PoP{Chain: [][]byte{der}, Key: key}, key: newKey(t),
	}
}

func byDevID(t *testing.T, _ *server, p *pki) evidence {
	t.Helper()
	dir, c := folder(t), newChip(t, p)
	key, err := c.keys.NewDevID()
	must(t, err)
	der := p.devid.certify(t, "machine", key.Key().Public())
	return devidEvidence(t, dir, c, key, [][]byte{der})
}

func byTPM(t *testing.T, _ *server, p *pki) evidence {
	t.Helper()
	c := newChip(t, p)
	return evidence{
		agent: agentID("bailiwick_tpm", c.ekHash()), reattest: true,
		by: spire.TPM{Keys: c.keys, FeedKey: c.feed, BootLog: c.boot}, key: c.keys.Node(),
	}
}

// devidKey is a *tpm.DevID.
type devidKey interface {
	Files() (public, private []byte)
	Begin(chain [][]byte) ([]byte, error)
	Answer(challenge, exporter, csrSPKI, feedPub []byte) ([]byte, error)
}

// devidEvidence writes the files a stock spire-agent wants.
func devidEvidence(t *testing.T, dir string, c *chip, key devidKey, chain [][]byte) evidence {
	t.Helper()
	public, private := key.Files()
	return evidence{
		agent: agentID("tpm_devid", fingerprint(chain[0])), reattest: true,
		plugin: fmt.Sprintf(`NodeAttestor "tpm_devid" { plugin_data { devid_cert_path = %q devid_pub_path = %q devid_priv_path = %q tpm_device_path = %q } }`,
			writePEM(t, dir, "devid.crt", "CERTIFICATE", chain...),
			write(t, dir, "devid.pub", "%s", public), write(t, dir, "devid.priv", "%s", private),
			filepath.Clean(strings.TrimPrefix(c.soft.Path(), "unix:"))),
		by: spire.DevID{Key: key, Chain: chain, FeedKey: c.feed}, key: c.keys.Node(),
	}
}
