package tpm

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

// ekName is what an EK certificate says of its TPM.
type ekName struct{ maker, model, version, serial string }

var (
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// nameOf reads the attributes of a verified EK certificate, from the directory name
// in its subject alternative name or, as some makers do, from its subject. What is
// missing or is not printable stays empty.
func nameOf(cert *x509.Certificate) ekName {
	name := ekName{serial: fmt.Sprintf("%x", cert.SerialNumber)}
	name.read(cert.Subject.Names)
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) != 0 {
			continue
		}
		for _, n := range names {
			const directoryName = 4 // RFC 5280 §4.2.1.6
			var rdns pkix.RDNSequence
			if n.Class != asn1.ClassContextSpecific || n.Tag != directoryName {
				continue
			}
			if rest, err := asn1.Unmarshal(n.Bytes, &rdns); err == nil && len(rest) == 0 {
				for _, set := range rdns {
					name.read(set)
				}
			}
		}
	}
	return name
}

func (n *ekName) read(attributes []pkix.AttributeTypeAndValue) {
	for _, attr := range attributes {
		value, ok := attr.Value.(string)
		if !ok || !isPlain(value) {
			continue
		}
		switch {
		case attr.Type.Equal(oidManufacturer):
			n.maker = value
		case attr.Type.Equal(oidModel):
			n.model = value
		case attr.Type.Equal(oidVersion):
			n.version = value
		}
	}
}

// isPlain keeps names short and printable: they end in policy input and terminals.
func isPlain(s string) bool {
	for _, r := range s {
		if r < ' ' || r > '~' {
			return false
		}
	}
	return len(s) <= 64
}
