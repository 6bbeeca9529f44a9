package explain

import (
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// identities is BW4: credentials, the issuer, trust. The TLS errors of package
// identity are the cause inside those of spire, and come last.
var identities = []Entry{
	{
		Code: "BW4001", Is: issuer.ErrConfig,
		Title:   "The issuer is not completely configured",
		Meaning: "A part the issuer cannot do without is missing, so it did not start. Nothing was signed.",
		Fix:     "Fill in the issuer section (listen, keys, entries) and run bailiwick check config FILE.",
	},
	{
		Code: "BW4002", Is: issuer.ErrNoCA,
		Title:   "There is no SVID root",
		Meaning: "The issuer's key folder holds no root to sign SVIDs with. Peers go on with the SVIDs they have until those expire.",
		Fix:     "Restore svid-root.pem into issuer.keys from its backup; make a new root only together with a new trust record for the region.",
	},
	{
		Code: "BW4003", Is: issuer.ErrEntry, Exit: Usage,
		Title:   "A registration entry was refused",
		Meaning: "The entry contradicts itself, another entry or the trust domain. The entries before stay in force.",
		Fix:     "Correct the entry and field the message names in the files of issuer.entries, and send the node SIGHUP (systemctl reload bailiwick).",
	},
	{
		Code: "BW4004", Is: issuer.ErrToken, Exit: Denied,
		Title:   "The join token was refused",
		Meaning: "It is unknown, expired or was used before; a token works once. The node got no identity.",
		Fix:     "Have the operator of the issuer put the SHA-256 of a new token into an entry, and its text into enrol.token_file.",
	},
	{
		Code: "BW4005", Is: issuer.ErrAppraisal, Exit: Denied,
		Title:   "Policy does not accept this machine",
		Meaning: "The evidence is genuine and an attest rule of the policy refuses what it shows, such as secure boot, PCRs or the TPM's maker, or refuses a machine that shows no quote.",
		Fix:     "Ask the issuer's node with bailiwick why last for the rule and the facts it saw; change the machine or, if the rule is wrong, the policy.",
	},
	{
		Code: "BW4006", Is: issuer.ErrUnknownAgent, Exit: Denied,
		Title:   "No agent has attested under this ID",
		Meaning: "The issuer knows no attestation of the caller, because it never attested here or the issuer's store was lost.",
		Fix:     "Restart the node so that it attests again.",
	},
	{
		Code: "BW4007", Is: issuer.ErrUnboundKey, Exit: Denied,
		Title:   "The certificate request is not for the attested key",
		Meaning: "A node's own certificate goes to the key that was attested and to no other. Nothing was issued.",
		Fix:     "Restart the node so that it attests with its present key.",
	},
	{
		Code: "BW4008", Is: issuer.ErrForeignID, Exit: Denied,
		Title:   "The certificate request names another SPIFFE ID",
		Meaning: "It asks for an ID other than the one granted, or one outside the trust domain. Nothing was issued.",
		Fix:     "Ask for exactly the ID of the registration entry, or have an entry made for the one wanted.",
	},
	{
		Code: "BW4009", Is: issuer.ErrCSR, Exit: Denied,
		Title:   "The certificate request was refused",
		Meaning: "It is malformed, not signed by its own key, of an unusual key type, or names more than it may. Nothing was issued.",
		Fix:     "Send a PKCS #10 request with a P-256 key and one SPIFFE URI, signed by that key.",
	},
	{
		Code: "BW4010", Is: issuer.ErrSpent,
		Title:   "An SVID approval was used twice",
		Meaning: "Each check of a request allows one certificate by one CA. The second was not issued.",
		Fix:     "Send the request again. If it repeats, report it with the issuer's log: it is a mistake in the program.",
	},
	{
		Code: "BW4054", Is: issuer.ErrAudience, Exit: Usage,
		Title:   "A JWT-SVID was asked for without saying for whom",
		Meaning: "A token without an audience could be replayed to anyone, and one for many to each of them. None was signed.",
		Fix:     "Ask for 1 to 32 audiences: the SPIFFE IDs or names of the services that will read the token.",
	},
	{
		Code: "BW4055", Is: issuer.ErrAuthority,
		Title:   "A signing authority is not ready for this step",
		Meaning: "Rotation goes in the order prepare, publish, activate, taint, retire, and this step is not the next one, or the authority is unknown. Nothing was changed.",
		Fix:     "Look at the state of the region's authorities, and take the step that is due.",
	},
	{
		Code: "BW4056", Is: issuer.ErrAuthorityInUse,
		Title:   "A signing authority is still needed",
		Meaning: "Identities that are still valid were signed by it, and would be refused everywhere without it. It was kept.",
		Fix:     "Taint it, so that its identities are renewed early, and retire it from the time that the message names, when the last of them has expired. Having been renewed is not enough: what it signed before stays valid until then.",
	},
	{
		Code: "BW4057", Is: issuer.ErrUnpublished,
		Title:   "The new signing root is not in the region's trust record",
		Meaning: "Other nodes and regions would refuse what it signs, so it does not sign yet. The old one still does.",
		Fix:     "Run bailiwick trust export FILE --draft here, have the global authority sign it (bailiwick trust sign), and bailiwick trust import it. Activate the root when the nodes have it too: bailiwick trust list.",
	},
	{
		Code: "BW4011", Is: spire.ErrBanned, Exit: Denied,
		Title:   "This machine is banned by its issuer",
		Meaning: "The issuer refuses this node for good, most likely because it was quarantined or its entry was removed.",
		Fix:     "Run bailiwick quarantine list on a node of the region; after a release there, move <state>/keys away and enrol again.",
	},
	{
		Code: "BW4012", Is: spire.ErrMustAttest,
		Title:   "The agent SVID is no longer accepted",
		Meaning: "The issuer wants a fresh attestation before it renews anything. The present SVIDs work until they expire.",
		Fix:     "Nothing needs to be done: the node attests again by itself. If it repeats, restart the node.",
	},
	{
		Code: "BW4013", Is: spire.ErrServer,
		Title:   "The server is not this region's issuer",
		Meaning: "What answers shows a certificate that is not that of the region's issuer. Nothing was sent to it.",
		Fix:     "Check enrol.issuers, the region's record in trust.records, and both clocks.",
	},
	{
		Code: "BW4014", Is: spire.ErrUnreachable, Exit: Unreachable,
		Title:   "The issuer cannot be reached",
		Meaning: "None of its addresses answers, or it cannot serve now. The node works on with the SVIDs it has until they expire and tries again by itself.",
		Fix:     "Check that the issuer's node runs and that its address in enrol.issuers can be reached: bailiwick status --node NAME.",
	},
	{
		Code: "BW4015", Is: spire.ErrRefused, Exit: Denied,
		Title:   "The issuer refused",
		Meaning: "The issuer understood the request and said no, for the reason in the message. What was issued before stays valid until it expires.",
		Fix:     "Act on the reason in the message; the issuer's node has more: bailiwick why last there, and its log.",
	},
	{
		Code: "BW4016", Is: spire.ErrAnswer,
		Title:   "The issuer's answer cannot be used",
		Meaning: "The server answered something else than was asked for. Nothing of it was kept.",
		Fix:     "Check that enrol.issuers names a bailiwick issuer or SPIRE server of a version this node knows.",
	},
	{
		Code: "BW4017", Is: epoch.ErrNoRoot,
		Title:   "There is no record root",
		Meaning: "The key folder holds no root for epoch certificates. Feeds go on until their certificates expire; new nodes cannot write.",
		Fix:     "Restore record-root.pem into issuer.keys from its backup; make a new root only together with a new trust record for the region.",
	},
	{
		Code: "BW4018", Is: epoch.ErrRequest, Exit: Denied,
		Title:   "The epoch certificate request was refused",
		Meaning: "It asks for something no epoch certificate may say; the message names the field. No epoch was spent on it.",
		Fix:     "Check that node and issuer run the same version; if they do, report it with both logs.",
	},
	{
		Code: "BW4019", Is: epoch.ErrSpent,
		Title:   "An epoch approval was used twice",
		Meaning: "Each check of a request allows one certificate by one root. The second was not issued, so no epoch was given out twice.",
		Fix:     "Ask again. If it repeats, report it with the issuer's log: it is a mistake in the program.",
	},
	{
		Code: "BW4020", Is: epoch.ErrUntrusted,
		Title:   "The epoch certificate is not signed by the region's record root",
		Meaning: "Either the trust record here is out of date or the certificate is false. Records under it are not accepted; nobody is blamed for them.",
		Fix:     "Bring the region's newest trust record: bailiwick trust import FILE.",
	},
	{
		Code: "BW4021", Is: epoch.ErrForeign, Exit: Denied,
		Title:   "The epoch certificate belongs to another trust domain",
		Meaning: "A certificate of one region was offered in another. It counts for nothing here.",
		Fix:     "Check which region's issuer the node enrolled with (enrol.issuers, node).",
	},
	{
		Code: "BW4022", Is: epoch.ErrExpired,
		Title:   "The epoch certificate is outside its validity",
		Meaning: "The node may not sign new records under it. Records dated inside its validity stay valid.",
		Fix:     "See that the node reaches its issuer, which renews it for the same epoch, and compare both clocks.",
	},
	{
		Code: "BW4023", Is: epoch.ErrMalformed,
		Title:   "Malformed epoch certificate",
		Meaning: "The bytes are not an epoch certificate. They were refused.",
		Fix:     "Check that both sides run the same version; if it is this node's own, restart it so that it enrols again.",
	},
	{
		Code: "BW4024", Is: endorse.ErrUntrusted,
		Title:   "The AK endorsement is not signed by the region's authority",
		Meaning: "Either the trust record here is out of date or the endorsement is false. Quotes under it prove nothing here.",
		Fix:     "Bring the region's newest trust record: bailiwick trust import FILE.",
	},
	{
		Code: "BW4025", Is: endorse.ErrExpired,
		Title:   "The AK endorsement has expired",
		Meaning: "Peers no longer take the node's quotes on it. Its SVID and feed are not affected.",
		Fix:     "Restart the node with its issuer in reach: it enrols again and gets a new one.",
	},
	{
		Code: "BW4026", Is: endorse.ErrMalformed,
		Title:   "Malformed AK endorsement",
		Meaning: "The bytes are no endorsement, or a field is wrong. They were refused.",
		Fix:     "Check that issuer and node run the same version, then restart the node so that it enrols again.",
	},
	{
		Code: "BW4027", Is: trust.ErrUnsigned, Exit: Denied,
		Title:   "The trust record is not signed by enough global keys",
		Meaning: "Fewer of the configured global keys signed it than trust.threshold asks for. It was not used.",
		Fix:     "Have it signed with more of the global keys (bailiwick trust sign; a draft has no signature yet), or correct trust.global_keys and trust.threshold.",
	},
	{
		Code: "BW4028", Is: trust.ErrExpired,
		Title:   "The trust record is outside its validity",
		Meaning: "The region's roots are not trusted by it any more, or not yet.",
		Fix:     "Bring a newer record of the region: bailiwick trust import FILE, or trust.records before the node starts; check this machine's clock.",
	},
	{
		Code: "BW4029", Is: trust.ErrConflict, Exit: Denied,
		Title:   "Two trust records contradict each other",
		Meaning: "The global keys signed two contents under one version, or gave a label or trust domain twice. The one known first stays in force.",
		Fix:     "Find out who signed both, then publish a record with a higher version.",
	},
	{
		Code: "BW4030", Is: trust.ErrOld, Exit: Denied,
		Title:   "A newer trust record is known already",
		Meaning: "An older version of a region's record was offered. Nothing was changed and nothing is wrong.",
		Fix:     "Bring the region's newest record (bailiwick trust list tells which version is known), and replace the old file in trust.records by it.",
	},
	{
		Code: "BW4031", Is: trust.ErrUnknown,
		Title:   "No trust record for this trust domain",
		Meaning: "Nothing here says which roots to believe for the trust domain, so nobody from it is believed.",
		Fix:     "If the region should be trusted, bring its signed record: bailiwick trust import FILE, or trust.records before the node starts.",
	},
	{
		Code: "BW4032", Is: trust.ErrNoGlobal, Exit: Usage,
		Title:   "The global keys cannot reach the threshold",
		Meaning: "trust.threshold asks for more signatures than there are keys, or for none. No trust record can be checked.",
		Fix:     "Set trust.threshold from 1 to the number of different keys in trust.global_keys.",
	},
	{
		Code: "BW4033", Is: trust.ErrMalformed,
		Title:   "Malformed trust record",
		Meaning: "The bytes are no trust record, or a field is wrong. The file was not used.",
		Fix:     "Get the file again from the global authority; a trust record is binary, not PEM. bailiwick trust list FILE reads it.",
	},
	{
		Code: "BW4034", Is: identity.ErrNotNode, Exit: Usage,
		Title:   "Not a node ID",
		Meaning: "The SPIFFE ID does not name a node.",
		Fix:     "Write spiffe://<trust domain>/node/<name> or spiffe://<trust domain>/zone/<zone>/node/<name>.",
	},
	{
		Code: "BW4035", Is: identity.ErrNoSVID,
		Title:   "There is no SVID yet",
		Meaning: "The process has no certificate to show, so it cannot connect or serve. What it holds already is kept.",
		Fix:     "Wait for enrolment; if it does not come, look in bailiwick status and the log for why the issuer is not reached.",
	},
	{
		Code: "BW4036", Is: identity.ErrNotSVID, Exit: Denied,
		Title:   "The peer's certificate is not an X.509-SVID",
		Meaning: "It shows no certificate, not exactly one SPIFFE ID, or a CA certificate. The connection was refused.",
		Fix:     "Check that the peer got its certificate from its region's issuer and that the address is a bailiwick node.",
	},
	{
		Code: "BW4037", Is: identity.ErrForeign, Exit: Denied,
		Title:   "There is no trust bundle for the peer's trust domain",
		Meaning: "The peer belongs to a region this node has no record of. The connection was refused.",
		Fix:     "If that region should be trusted, bring its signed record: bailiwick trust import FILE.",
	},
	{
		Code: "BW4038", Is: identity.ErrUntrusted, Exit: Denied,
		Title:   "The peer's certificate does not chain to its region's roots",
		Meaning: "The peer, or the trust record here, is out of date or false. The connection was refused.",
		Fix:     "Bring that region's newest record: bailiwick trust import FILE; bailiwick trust list shows the version here. If it is the newest, have the peer enrol again.",
	},
	{
		Code: "BW4039", Is: identity.ErrExpired, Exit: Denied,
		Title:   "The peer's certificate is outside its validity",
		Meaning: "It has expired or is not valid yet by this machine's clock. The connection was refused; no expiry is ever extended silently.",
		Fix:     "Compare the clocks of both machines (timedatectl), and see whether the peer reaches its issuer.",
	},
	{
		Code: "BW4040", Is: identity.ErrResumed, Exit: Denied,
		Title:   "The peer resumed a TLS session",
		Meaning: "Resumption would skip the check of its certificate, so it is never accepted. The connection was refused.",
		Fix:     "Turn session tickets off in the client; a bailiwick node never offers them.",
	},
	{
		Code: "BW4041", Is: identity.ErrRefused, Exit: Denied,
		Title:   "The peer is not authorised",
		Meaning: "Its identity is genuine and it is not welcome here: it is not the service that was asked for, or not accepted by policy or standing.",
		Fix:     "Run bailiwick why last for the rule; if it is the service, check the workloads listed for its name under authority.services.",
	},
	{
		Code: "BW4059", Is: issuer.ErrEvidence, Exit: Denied,
		Title:   "Node evidence was refused",
		Meaning: "What an agent sent for x509pop or tpm_devid does not prove its machine: it is malformed, from an authority not trusted for this, or its key was not shown. No SVID was issued.",
		Fix:     "Compare the agent's certificate with the authorities the issuer trusts for that method, and its validity with both clocks.",
	},
	{
		Code: "BW4060", Is: issuer.ErrUpstream,
		Title:   "The upstream authority's certificate cannot be used",
		Meaning: "It is for another trust domain or ends sooner than the one in use. The issuer goes on with what it has.",
		Fix:     "Compare the upstream's trust domain with the region's, and see whether the upstream's own CA is about to end.",
	},
	{
		Code: "BW4061", Is: issuer.ErrRootLost,
		Title:   "The SVID root is lost with its TPM",
		Meaning: "Its key is in another TPM, or was in this one before it was cleared or replaced; no copy exists. The issuer did not start. SVIDs that the root signed are valid until they expire.",
		Fix:     "Activate the root prepared on another issuer of the region. Else move svid-root* and authorities.json out of issuer.keys, start once to make a new root, and have a trust record that names it signed and imported.",
	},
	{
		Code: "BW4062", Is: issuer.ErrRootInTPM,
		Title:   "The SVID root is in a TPM, and the issuer uses none",
		Meaning: "issuer.keys holds a root whose key is in the TPM of this machine, and the configuration says disk. The issuer did not start.",
		Fix:     "Set issuer.root to tpm, and tpm.mode to required.",
	},
	{
		Code: "BW4063", Is: issuing.ErrRootMade,
		Title:   "This issuer's new roots wait for the region's trust record",
		Meaning: "issuer.keys held no root, and the issuer is one whose roots are made where they stay: in its TPM, or as the region's second. Nobody believes what they sign before the region's trust record names them.",
		Fix:     "Sign the draft the message names with the global keys (bailiwick trust sign), import it at every node (bailiwick trust import), put it into trust.records of this one, and start it again.",
	},
	{
		Code: "BW4065", Is: issuer.ErrNoEntry,
		Title:   "There is no such registration entry",
		Meaning: "The issuer has no entry of this ID. Nothing was changed.",
		Fix:     "List the entries with bailiwick entry list; a prefix of an ID is enough where it is unique.",
	},
	{
		Code: "BW4066", Is: issuer.ErrAuthorityAway, Exit: Unreachable,
		Title:   "This issuer cannot reach the region's authority",
		Meaning: "Epochs and AK endorsements come from the authority's node, over the mesh. Until it is back this issuer renews SVIDs, and nodes go on with the epochs they have, for as long as those certificates are valid (7 days). A node without any gets none.",
		Fix:     "See with bailiwick status --peers on the issuer's node whether it has a link to the authority's node, and whether that runs.",
	},
	{
		Code: "BW4071", Is: issuer.ErrEpochsLater, Exit: Unreachable,
		Title:   "The authority gives this node new epochs later",
		Meaning: "The node asked for new epochs too often of late; the message says when it gets more. It goes on with those it has, and its SVIDs are renewed. A node without any waits.",
		Fix:     "See bailiwick explain BW7034.",
	},
	{
		Code: "BW4072", Is: endorse.ErrOther,
		Title:   "The endorsement is for another node or another trail key",
		Meaning: "The authority endorsed a machine's keys, and the trail key shown with that endorsement is not among them, or the machine is another node. The trail is not taken for that node's.",
		Fix:     "If the node's TPM was cleared or replaced, restart it with its issuer in reach, so that it is endorsed again. Otherwise somebody shows keys as its own that are not.",
	},
	{
		Code: "BW4067", Is: issuing.ErrNotIssuer, Exit: Denied,
		Title:   "A node asked the authority for what only issuers get",
		Meaning: "It has an issuer section in its configuration, and the authority's node does not list it. It got no epochs.",
		Fix:     "Add its SPIFFE ID to authority.issuers on the authority's node if it should be an issuer, and restart that one.",
	},
	{
		Code: "BW4068", Is: issuing.ErrBannedElsewhere, Exit: Denied,
		Title:   "Another issuer of the region banned this agent",
		Meaning: "A ban holds at all issuers of the region, from ten seconds after it was made. Nothing was issued.",
		Fix:     "Unban or evict the agent at the issuer that banned it: spire-server agent list -banned true shows it there.",
	},
	{
		Code: "BW4069", Is: trust.ErrOwnKey, Exit: Denied,
		Title:   "The trust record names this key itself",
		Meaning: "A region cannot vouch for itself: the key to sign with is the policy or authority key that the record names. Nothing was signed.",
		Fix:     "Sign with a global key: bailiwick trust sign DRAFT --key global.key.pem, where that key is kept.",
	},
	{
		Code: "BW4070", Is: issuing.ErrKeysInUse,
		Title:   "Another process issues with these keys",
		Meaning: "Two issuers with one issuer.keys would overwrite each other's authorities. The node did not start.",
		Fix:     "Stop the other process (fuser on the file lock in issuer.keys finds it), or give each issuer a folder of its own.",
	},
}
