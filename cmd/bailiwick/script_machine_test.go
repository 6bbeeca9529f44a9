package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// cmdCertify makes an authority of the operator's and has it certify a machine.
func cmdCertify(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "certify DIR")
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	write := func(name, kind string, der []byte, err error) {
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	write("ca.pem", "CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "machine"},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}, ca, key.Public(), caKey)
	write("cert.pem", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	write("key.pem", "PRIVATE KEY", der, err)
}

// cmdFingerprint sets a variable to what SPIRE calls a certificate.
func cmdFingerprint(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "fingerprint NAME FILE")
	block, _ := pem.Decode([]byte(ts.ReadFile(args[1])))
	if block == nil {
		ts.Fatalf("%s is not PEM", args[1])
	}
	ts.Setenv(args[0], fmt.Sprintf("%x", sha1.Sum(block.Bytes)))
}

func cmdClear(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "clear NODE")
	n, err := fleet(ts).Node(args[0])
	ts.Check(err)
	soft, err := maker.Attach(n.TPMDir())
	ts.Check(err)
	ts.Check(soft.Clear())
}

func cmdCutPower(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "cut-power NODE N EPOCH")
	n, err := fleet(ts).Node(args[0])
	ts.Check(err)
	times, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := range times {
		cmdSignal(ts, false, []string{args[0], "KILL"})
		until(ts, []string{"of epoch " + args[2] + "$"}, func() *exec.Cmd {
			return exec.Command("bailiwick", "put", "--node", args[0], n.ID.Path()+"/x-note/cut", strconv.Itoa(i))
		})
	}
}
