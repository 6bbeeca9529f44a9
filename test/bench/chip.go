package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" // SPIRE names DevIDs by it
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// chip is a machine's software TPM, and keys in it.
type chip struct {
	soft   *maker.SoftTPM
	device *tpm.Device
	keys   *tpm.Keys
	ek     string // SHA-256 of the endorsement key, hex
}

func newChip(ca *maker.CA, dir string) (*chip, error) {
	soft, err := ca.Manufacture(context.Background(), filepath.Join(dir, "tpm"))
	if errors.Is(err, maker.ErrNoSwtpm) {
		return nil, fmt.Errorf("swtpm %w: %w", errAbsent, err)
	} else if err != nil {
		return nil, err
	}
	c := &chip{soft: soft}
	keys := filepath.Join(dir, "keys-of-bench")
	if err = os.MkdirAll(keys, 0o700); err == nil {
		c.device, err = tpm.Open(soft.Path())
	}
	if err == nil {
		c.keys, err = tpm.OpenKeys(c.device, keys)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	hash := c.keys.EKHash()
	c.ek = hex.EncodeToString(hash[:])
	return c, nil
}

func (c *chip) stop() {
	if c.device != nil {
		_ = c.device.Close()
	}
	_ = c.soft.Stop() // its folder goes next
}

// ours attests as the product's nodes do.
func (c *chip) ours() (spire.Attester, error) {
	boot, err := os.ReadFile(c.soft.BootLog())
	if err != nil {
		return nil, err
	}
	feed, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&feed.PublicKey)
	return spire.TPM{Keys: c.keys, FeedKey: public, BootLog: boot}, err
}

// devid is a DevID in a chip's TPM, as SPIRE's plugin tpm_devid uses it.
type devid struct {
	key  *tpm.DevID
	cert []byte            // of the key, DER
	root *x509.Certificate // that certified it
}

func (c *chip) newDevID() (*devid, error) {
	key, err := c.keys.NewDevID()
	if err != nil {
		return nil, err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := func(n int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		}
	}
	ca := template(1, "bench DevID CA")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, &signer.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	if ca, err = x509.ParseCertificate(root); err != nil {
		return nil, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template(2, "machine"), ca, key.Key().Public(), signer)
	return &devid{key: key, cert: cert, root: ca}, err
}

// agent is the ID that SPIRE gives to who shows the DevID.
func (d *devid) agent() spiffeid.ID {
	sum := sha1.Sum(d.cert)
	return spiffeid.RequireFromPathf(region, "/spire/agent/tpm_devid/%x", sum)
}

// plugin writes the files a spire-agent wants, and returns its configuration.
func (d *devid) plugin(dir string, c *chip) (string, error) {
	public, private := d.key.Files()
	for name, b := range map[string][]byte{"devid.pub": public, "devid.priv": private} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return "", err
		}
	}
	err := writePEM(filepath.Join(dir, "devid.crt"), "CERTIFICATE", d.cert)
	return fmt.Sprintf(`NodeAttestor "tpm_devid" { plugin_data { devid_cert_path = %q devid_pub_path = %q devid_priv_path = %q tpm_device_path = %q } }`,
		filepath.Join(dir, "devid.crt"), filepath.Join(dir, "devid.pub"), filepath.Join(dir, "devid.priv"),
		filepath.Clean(strings.TrimPrefix(c.soft.Path(), "unix:"))), err
}
