package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// The files of a DevID, as SPIRE's agent takes them in devid_cert_path,
// devid_pub_path and devid_priv_path.
const (
	DevIDCertFile    = "devid.crt.pem"   // certificates, the DevID's own first
	DevIDPublicFile  = "devid.pub.blob"  // TPMT_PUBLIC
	DevIDPrivateFile = "devid.priv.blob" // content of TPM2B_PRIVATE
)

// Write is WriteDevID of this one.
func (d *DevID) Write(dir string, chain [][]byte) error {
	public, private := d.Files()
	return WriteDevID(dir, public, private, chain)
}

// WriteDevID puts the files of a DevID and its certificate chain (DER) into dir, which
// it makes if need be, as three files of mode 0600; the certificate comes last, so a
// folder that has one is whole. It replaces files that are there. Errors are ErrDevID,
// if the chain is not of this key, and those of the file system.
func WriteDevID(dir string, public, private []byte, chain [][]byte) error {
	area, err := parsePublic(public)
	if err != nil {
		return fmt.Errorf("%w: public part: %w", ErrDevID, err)
	}
	key, err := publicKey(area)
	if err != nil {
		return fmt.Errorf("%w: public part: %w", ErrDevID, err)
	}
	var certs bytes.Buffer
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("%w: certificate %d: %w", ErrDevID, i, err)
		}
		if i == 0 && !sameKey(c.PublicKey, key) {
			return fmt.Errorf("%w: the certificate is of another key", ErrDevID)
		}
		pem.Encode(&certs, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // writes to memory: cannot fail
	}
	if certs.Len() == 0 {
		return fmt.Errorf("%w: no certificate", ErrDevID)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Without its certificate the old DevID is not whole while the new one is written.
	if err := os.Remove(filepath.Join(dir, DevIDCertFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{DevIDPublicFile, public}, {DevIDPrivateFile, private}, {DevIDCertFile, certs.Bytes()}} {
		if err := durable.Replace(filepath.Join(dir, f.name), f.b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ReadDevID reads what Write wrote, or what another tool made for this TPM. Errors
// are ErrDevID, ErrOtherTPM and those of the file system and the device.
func (k *Keys) ReadDevID(dir string) (*DevID, [][]byte, error) {
	read := func(name string) ([]byte, error) {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Size() > MaxDevID {
			return nil, fmt.Errorf("%w: %s has %d bytes", ErrDevID, path, info.Size())
		}
		return os.ReadFile(path)
	}
	certs, err := read(DevIDCertFile)
	if err != nil {
		return nil, nil, err
	}
	public, err := read(DevIDPublicFile)
	if err != nil {
		return nil, nil, err
	}
	private, err := read(DevIDPrivateFile)
	if err != nil {
		return nil, nil, err
	}
	var chain [][]byte
	for block, rest := pem.Decode(certs); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
		}
	}
	if len(chain) == 0 {
		return nil, nil, fmt.Errorf("%w: %s holds no certificate", ErrDevID, filepath.Join(dir, DevIDCertFile))
	}
	d, err := k.OpenDevID(public, private)
	return d, chain, err
}
