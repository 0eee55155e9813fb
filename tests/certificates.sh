#!/bin/sh
# certificates.sh FOLDER: makes the certificates that the tests of TLS use, with openssl: good ones, and one for every way
# to be bad. All keys are ECDSA's of P-256 but one. Nothing of it is ever trusted outside of the tests.
set -e
mkdir -p "$1"
cd "$1"
cat >ca.conf <<'CONF'
[ca]
default_ca = this
[this]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
default_crl_days = 3650
unique_subject = no
copy_extensions = none
[any]
commonName = supplied
[request]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONF
: >index

key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
}

# authority NAME: signed by itself.
authority() {
    key "$1"
    openssl req -new -x509 -config ca.conf -extensions authority -key "$1.key" -subj "/CN=Test $1" -days 7300 -out "$1.pem"
}

# issue NAME AUTHORITY START END EXTENSIONS: with the key NAME.key.
issue() {
    printf '[x]\n%s\n' "$5" | tr ';' '\n' >"$1.ext"
    openssl req -new -config ca.conf -key "$1.key" -subj "/CN=${6:-$1}" -out "$1.csr"
    openssl ca -batch -notext -config ca.conf -extfile "$1.ext" -extensions x -cert "$2.pem" -keyfile "$2.key" \
        -startdate "$3" -enddate "$4" -in "$1.csr" -out "$1.pem" 2>>log
    rm "$1.csr" "$1.ext"
}

from=20200101000000Z
to=20990101000000Z
server='extendedKeyUsage=serverAuth'
client='extendedKeyUsage=clientAuth'
names='subjectAltName=DNS:example.org,DNS:*.example.org,DNS:localhost,IP:127.0.0.1,IP:::1,email:a@example.org,URI:https://example.org/'

authority ca
authority other
for name in server second expired future revoked usage client stranger bare number zero middle chained; do
    key $name
done
issue server ca $from $to "$server;$names"
issue second ca $from $to "$server;subjectAltName=DNS:second.example.net"
issue expired ca $from 20210101000000Z "$server;$names"
issue future ca 20980101000000Z $to "$server;$names"
issue revoked ca $from $to "$server;$names"
issue usage ca $from $to "$client;$names"
issue client ca $from $to "$client"
issue stranger other $from $to "extendedKeyUsage=serverAuth,clientAuth;$names"
issue bare ca $from $to "$server" example.org
issue number ca $from $to "$server;subjectAltName=DNS:127.0.0.1"
issue zero ca $from $to "$server;2.5.29.17=DER:30168214$(printf 'example.org\0evil.net' | od -An -tx1 | tr -d ' \n')"
issue middle ca $from $to "basicConstraints=critical,CA:TRUE;keyUsage=critical,keyCertSign"
issue chained middle $from $to "$server;$names"
cat chained.pem middle.pem >chain.pem
cat server.pem server.key >both.pem
openssl x509 -in server.pem -outform DER -out server.der
openssl ec -in server.key -outform DER -out server.key.der 2>>log
openssl ec -in server.key -aes128 -passout pass:secret -out server.locked.key 2>>log

openssl genrsa -out rsa.key 2048 2>>log
issue rsa ca $from $to "$server;$names"

key self
printf '[x]\n%s\n' "$names" >self.ext
cat ca.conf self.ext >self.conf
openssl req -new -x509 -config self.conf -extensions x -key self.key -subj /CN=self -days 7300 -out self.pem

openssl ca -config ca.conf -cert ca.pem -keyfile ca.key -revoke revoked.pem 2>>log
openssl ca -config ca.conf -cert ca.pem -keyfile ca.key -gencrl -out crl.pem 2>>log
openssl ca -config ca.conf -cert ca.pem -keyfile ca.key -gencrl -crl_lastupdate $from -crl_nextupdate 20210101000000Z \
    -out crl.old.pem 2>>log
mkdir -p folder
cp ca.pem folder/first
cp other.pem folder/second
echo nothing >folder/README
rm -f index* [0-9A-F][0-9A-F]*.pem ./*.ext self.conf ca.conf log
