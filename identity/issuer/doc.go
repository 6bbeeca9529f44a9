// Package issuer signs a region's X509-SVIDs and epoch certificates. It serves
// SPIRE's server API, so that a stock spire-agent gets its identities here too,
// and bailiwick.issuer.v1 beside it, on one TLS address.
//
// # What is served
//
//	Agent/AttestAgent           no client certificate   evidence in, agent SVID out
//	Bundle/GetBundle            no client certificate   the region's X.509 roots and JWT keys
//	Bundle/GetFederatedBundle   agent or node SVID      another region's X.509 roots and JWT keys, from its trust record
//	Agent/RenewAgent            agent SVID              only for what cannot attest again
//	Agent/PostStatus            agent SVID
//	Entry/GetAuthorizedEntries  agent or node SVID      what the caller may ask SVIDs for
//	Entry/SyncAuthorizedEntries agent or node SVID      the same, by pages of 500
//	SVID/BatchNewX509SVID       agent or node SVID      at most 500 a call
//	SVID/NewJWTSVID             agent or node SVID      a bearer token, for the audience named
//	Issuer/TrustRecords         no client certificate   all regions' trust records: they prove themselves
//	Issuer/Enrol                agent SVID              epoch certificates, AK endorsement, trust records, policy in force
//	Issuer/CertifyDevID         agent SVID              a DevID certificate, for a stock SPIRE server to judge
//
// Every other method of those services answers Unimplemented. TLS is 1.3 without
// tickets; the server is spiffe://<trust domain>/spire/server, certified by its
// own root, renewed at half of its life. A client certificate of a foreign or
// unknown root ends the handshake; an own one that expired is told so per call
// (AGENT_EXPIRED), as SPIRE does. A connection remembers that its certificate
// verified, under which authorities and until when; every call compares, and asks
// the store and the standing anew. So a long connection outlives neither an expiry,
// nor a change of the bundle, nor a ban.
//
// # The operator's socket
//
// ServeLocal answers on a unix socket of mode 0600 what the stock spire-server
// command asks: Agent (list, count, show, ban, evict, token), Entry (all of it),
// Bundle (show, count, list), LocalAuthority (X509 and JWT), grpc.health. Ban and
// eviction hold from the next call on, on live connections too. Every change is a
// leaf, admin.action.
//
// # Entries
//
// An entry has one of three owners, and its ID says which:
//
//	file-<content>    the files of the configuration: changes only with them, and wins
//	apply-<content>   Apply: changes only with what is applied, and can be deleted
//	any other         the operator's socket: created, changed and deleted there
//
// Apply makes the applied entries say what a list says, in one transaction or not at
// all. Applying a list again changes nothing. An entry takes the place of the one
// that it cannot stand beside: of the same ID, parent and selectors, of the same
// node, of the same machine. With Prune the list is the whole of what is applied. An
// entry of the store that one of the files contradicts, or says too, is kept and out
// of force until it is gone from the files.
//
// An entry below /spire/server is an alias: an ID of every agent that shows its
// selectors.
//
// # Rotation
//
// An authority is prepared, activated, tainted and retired, in this order. It is
// in the bundle from the first step to the last. A root is activated only when the
// region's trust record names it. Retiring is refused while an identity that the
// authority signed is valid; the answer says whose. When an authority becomes
// active, the one before is old and signs nothing.
//
// # Evidence
//
//	bailiwick_tpm   EK, quote, keys that live in the TPM: package tpm
//	tpm_devid       SPIRE's: a DevID of the operator's in a TPM; with our key binding
//	                also the CSR's key, without it no epoch certificate
//	x509pop         SPIRE's: a certificate of the operator's; `unattested`
//	join_token      SPIRE's: once, or until its answer has arrived; `unattested`
//
// Policy judges what was proved: TPM.Appraise for bailiwick_tpm, [Judged] for the rest.
//
// # Appeals
//
// A machine whose node gets nothing at present may say why it is sound: a note in the metadata of
// AttestAgent. It proves itself as ever, policy judges it, it gets nothing, and Config.Appeal takes
// the note and what the TPM proved to the region's authority. There is no protocol of its own for
// that, because this one has all it takes: peers cut the node's sessions and its SVIDs may have
// expired, but issuers take evidence from anybody, bounded and in turn; the quote is fresh and is
// verified where quotes are; and it is bound to the TLS channel, so the note needs no signature.
// A machine without a TPM shows what it enrolled by or, where that was a token and is spent, that it
// has the key of its feed (bailiwick_epoch: [EpochProof], which gets nobody anything else). Its
// appeal is marked: no EK, nothing known of the machine.
//
// # Nested
//
// A CA may be certified by another authority of its trust domain ([Upstream]): a
// real SPIRE server. Its root then lives a day at most and is replaced at half of
// its life; the region's anchors are the upstream's, and upstream.json keeps them.
// SVIDs carry the certificates up to the anchor. A successor is used only if it
// ends later than the one in use and leads to an anchor that was in the bundle
// before. While the upstream is away, the issuer goes on until its authority ends.
// JWT keys are ours, and published upstream.
//
// # Several issuers of a region
//
// Each has its own roots and keys, agents, spent tokens, and entries of its socket; the
// trust record names the roots of all, and entries of files are the same everywhere.
// What must be one in the region is the authority's: epochs ([Epochs]) and AK
// endorsements. While that is away (ErrAuthorityAway) SVIDs are issued all the same, and
// Enrol answers Unavailable. Bundles have the roots of the other issuers by the trust
// record, and their JWT keys by Config.Others. Bans and evictions are the region's:
// Config.Barred tells of those here, and those of the others come by Config.Standing and
// [Server.Forget].
//
// An SVID of another issuer's is genuine and its agent unknown: its holder is told to
// attest here. So evidence that may be shown again (a TPM's, x509pop) is good at every
// issuer. A join token is good at one, and what it gave at all: an agent that cannot
// attest again is taken over by its SVID, as long as that is valid and newer than what is
// known of it here, and nobody evicted or banned it. The trail tells.
//
// # Names
//
// Evidence of type T about N gives the agent ID /spire/agent/T/N. An [Entry]
// gives an ID to whoever holds its parent ID, so an agent may ask for all IDs
// that entries reach from its own. A node entry (/node/<name> under an agent ID)
// is the node's own name; its CSR key must be the attested node key.
//
// # Order
//
// Evidence, then standing and policy, then [CA.Check], then [CA.Issue], then one
// store transaction with the agent's record and a trail leaf for every
// certificate, then the answer. What could not be recorded is not sent. An
// approval is spent once. Refusals leave a leaf too (issuer.attest,
// issuer.refuse), unless a limit refused first: those are counted only.
//
// # State
//
// Bucket issuer/agents holds one record for each agent ID: what was attested,
// which serial number is the active one, whether it is banned. Bucket
// issuer/tokens holds join tokens that are spent, issuer/tokens-made those of the
// socket by hash and expiry, issuer/entries its entries, issuer/evicted who
// was evicted of late, issuer/bundles the sequence number of each trust domain's
// bundle, which grows with every change, issuer/retired the roots that were
// retired, and issuer/live until when what each authority signed for each ID is
// valid.
//
// Keys are files of mode 0600 in one folder. Each root or JWT key has a file of
// its own; authorities.json says which of them is prepared, active or old:
//
//	svid-root.pem, svid-root-<id>.pem   P-256 key, then certificate(s)
//	jwt-<key ID>.pem                    P-256 key
//	authorities.json                    {sequence, authorities: [{kind, id, state, tainted, not_after, file}]}
//
// All of them are in the bundle, prepared ones too: they must be known before
// they sign. JWT keys live seven days and rotate by themselves; a root lives five
// years, and the operator rotates it, for other regions learn it by a record that
// is signed offline.
//
// # A root in the TPM
//
// With [OpenCA] the key of the root, and of those that a rotation prepares, may be in a
// [Device]: made there, and not to be had from there. Its file holds a DEVICE KEY
// block, of no use anywhere else. TPMs sign slowly, so it signs one certificate in 12
// hours: an intermediate of 24, whose key is in memory only and that signs SVIDs; they
// end with it. Whoever verifies knows the root and gets the intermediate with the SVID.
// Issuing waits for the TPM at the start, and goes on up to 12 hours without it.
//
// A root is lost with its TPM (ErrRootLost). So a region has a second issuer with a
// root of its own, which its trust record names beside the first; the authority's
// nodes renew there, and the lost root is dropped from the next record.
//
// # JWT-SVIDs
//
// ES256; header alg, kid, typ; claims sub, aud, exp, iat, jti. Five minutes unless
// the entry says otherwise, at most an hour, never longer than the key. A node's
// own name gets none: it is bound to a key, and a token would not be.
//
// # Limits
//
// Attestations: 200 a second, 128 under way, 16 of one address (IPv6: /64), 30
// seconds each. Addresses take turns; who waits longer than 20 seconds, or behind
// 1024 others of its address, is told to come again. Whoever has attested does not
// wait in this line: SVIDs are limited for each machine, to 500 a second and 2000 at
// once. A message of evidence may have the size of a boot log (1 MiB), a CSR 8 KiB.
package issuer
