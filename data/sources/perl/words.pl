#!/usr/bin/perl
use strict;
use warnings;

my %seen;
my $total = 0;

while (my $line = <STDIN>) {
    chomp $line;
    foreach my $word (split /\s+/, lc $line) {
        next if $word eq '';
        $seen{$word}++;
        $total++;
    }
}

my @top = sort { $seen{$b} <=> $seen{$a} } keys %seen;
print "total: $total\n";
print "top: $top[0]\n" if @top;
