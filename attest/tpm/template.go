package tpm

import (
	"crypto/sha256"

	"github.com/google/go-tpm/tpm2"
)

// attestationKey is the template of the AK: the TPM derives the key from it and
// the endorsement seed, so the words in Unique make it ours and nobody else's.
var attestationKey = signingTemplate(true, sha256.Sum256([]byte("bailiwick attestation key 1")))

// residentKey is the template of the node and the trail key.
var residentKey = signingTemplate(false, [32]byte{})

// signingTemplate is a P-256 key that signs with ECDSA and SHA-256, lives and
// dies with this TPM, has no password and is exempt from dictionary lockout.
func signingTemplate(restricted bool, unique [32]byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: signingAttributes(restricted),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: unique[:]},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	}
}

// signingAttributes are the attributes our signing keys are made with, and the
// only ones the verifier takes.
func signingAttributes(restricted bool) tpm2.TPMAObject {
	return tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		NoDA:                true,
		Restricted:          restricted,
		SignEncrypt:         true,
	}
}

// ekKind is one of the endorsement keys makers certify (TCG EK Credential Profile
// 2.6 §2.2.1 and B.3, B.4).
type ekKind struct {
	name        string
	certificate tpm2.TPMHandle // NV index
	template    tpm2.TPMTPublic
	policy      bool // use is authorized by the endorsement hierarchy, else by the empty password
}

// ekKinds are in the order in which we look for a certificate.
var ekKinds = []ekKind{
	{name: "RSA-2048", certificate: 0x01c00002, template: tpm2.RSAEKTemplate, policy: true},
	{name: "P-256", certificate: 0x01c0000a, template: tpm2.ECCEKTemplate, policy: true},
	{name: "P-384", certificate: 0x01c00016, template: ekP384},
}

// persistentEKs are where makers and operating systems keep an EK that was made
// already (TCG Registry of Reserved TPM 2.0 Handles §2.3.1).
var persistentEKs = []tpm2.TPMHandle{0x81010001, 0x81010002}

// ekChain is where makers put the certificates above that of the EK.
const (
	ekChainFirst = tpm2.TPMHandle(0x01c00100)
	ekChainMost  = 4
)

// ekP384 is template H-3 of the EK Credential Profile: the one swtpm_setup
// certifies beside RSA. Its policy B is not used, for its password is empty.
var ekP384 = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA384,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		AdminWithPolicy:     true,
		Restricted:          true,
		Decrypt:             true,
	},
	AuthPolicy: tpm2.TPM2BDigest{Buffer: []byte{ // PolicyB, SHA-384
		0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
		0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
		0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
	}},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP384,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
}
